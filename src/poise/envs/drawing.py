"""Images of native environments, drawn with Pillow (Gymnasium draws with pygame)."""

import math

import numpy as np
from jaxtyping import Float, UInt8

SIZE = 480  # width and height in pixels
_OVERSAMPLING = 3  # drawn so many times larger, then reduced: smooth edges


def draw_pendulum(
    obs: Float[np.ndarray, "3"], torque: float, max_torque: float
) -> UInt8[np.ndarray, "height width 3"]:
    """The pole, its hinge, and an arc that shows the torque (counterclockwise is positive)."""
    from PIL import Image, ImageDraw

    scale = SIZE * _OVERSAMPLING
    image = Image.new("RGB", (scale, scale), "#f7f7f5")
    draw = ImageDraw.Draw(image)
    center, length, width = scale / 2, 0.36 * scale, 0.07 * scale
    cos, sin = float(obs[0]), float(obs[1])  # 0 is upright, positive angles lean left

    def dot(x: float, y: float, radius: float, color: str) -> None:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

    tip = center - length * sin, center - length * cos
    dot(center, center, 1.12 * length + width, "#ecece8")
    draw.line((center, center, *tip), fill="#c2571a", width=round(width))
    dot(center, center, width / 2, "#c2571a")
    dot(*tip, width / 2, "#c2571a")
    dot(center, center, width / 5, "#333333")

    share = max(-1.0, min(1.0, torque / max_torque))
    if abs(share) > 0.02:
        radius, sweep = 0.16 * scale, 150 * abs(share)
        box = (center - radius, center - radius, center + radius, center + radius)
        begin, end = (270 - sweep, 270) if share > 0 else (270, 270 + sweep)  # Pillow's degrees, clockwise
        draw.arc(box, begin, end, fill="#14507a", width=round(width / 4))
        tip_angle = math.radians(begin if share > 0 else end)
        x, y = center + radius * math.cos(tip_angle), center + radius * math.sin(tip_angle)
        ahead = tip_angle - math.copysign(math.pi / 2, share)
        corners = [
            (x + width / 2 * math.cos(ahead + turn), y + width / 2 * math.sin(ahead + turn))
            for turn in (0, 2.3, -2.3)
        ]
        draw.polygon(corners, fill="#14507a")
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
