"""A plain NumPy PPO in float64, one loop at a time, that shares no line with the product.

Covers the default kind of policy: tanh hidden layers, a linear head, a deviation that is a
parameter. Gradients are written out by hand.
"""

import numpy as np


class Net:
    """An MLP with tanh; ``forward`` keeps what ``backward`` needs."""

    def __init__(self, weight, bias):
        self.weight = [np.array(w, float) for w in weight]
        self.bias = [np.array(b, float) for b in bias]

    def forward(self, x):
        self.inputs = [x]
        for i, (w, b) in enumerate(zip(self.weight, self.bias, strict=True)):
            x = x @ w + b
            if i < len(self.weight) - 1:
                x = np.tanh(x)
                self.inputs.append(x)
        return x

    def backward(self, out_gradient):
        weights, biases, g = [], [], out_gradient
        for i in reversed(range(len(self.weight))):
            weights.insert(0, self.inputs[i].T @ g)
            biases.insert(0, g.sum(0))
            if i:
                g = (g @ self.weight[i].T) * (1 - self.inputs[i] ** 2)
        return weights, biases


class Adam:
    """Steps against the gradient, ``rates`` times as long for each parameter."""

    def __init__(self, params, rates):
        self.rates = rates
        self.m = [np.zeros_like(p) for p in params]
        self.v = [np.zeros_like(p) for p in params]
        self.t = 0

    def step(self, params, gradients, rate, max_norm):
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        gradients = [g * min(1, max_norm / norm) for g in gradients]
        self.t += 1
        for i, (p, g) in enumerate(zip(params, gradients, strict=True)):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            p -= rate * self.rates[i] * m / (np.sqrt(v) + 1e-5)


def log_prob(mean, log_std, action):
    z = (action - mean) / np.exp(log_std)
    return (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(1)


class Learner:
    """Everything that goes on from one iteration to the next. Changes the networks in place."""

    def __init__(self, policy, log_std, value, config):
        self.policy, self.log_std, self.value, self.config = policy, log_std, value, config
        self.policy_params = [*policy.weight, *policy.bias, log_std]
        self.value_params = [*value.weight, *value.bias]
        same = [1.0] * len(self.value_params)
        self.adam_policy = Adam(self.policy_params, [*same, config.policy.std_rate])
        self.adam_value = Adam(self.value_params, same)
        self.seen_obs, self.seen_returns, self.running = [], [], 0.0
        self.num_clipped = {"ratio": 0, "reward": 0, "obs": 0}

    def _clip(self, what, x, low, high):
        self.num_clipped[what] += int(((x < low) | (x > high)).sum())
        return np.clip(x, low, high)

    def _normalized(self, obs):
        if self.seen_obs:
            seen = np.concatenate(self.seen_obs)
            obs = (obs - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-8)
        limit = self.config.normalize.obs_bound
        return self._clip("obs", obs, -limit, limit)

    def update(self, rollout, orders, rate_policy, rate_value):
        """One iteration. ``orders`` holds the shuffled row numbers of each epoch."""
        ppo, policy, value, log_std = self.config.ppo, self.policy, self.value, self.log_std
        raw = np.asarray(rollout.obs, float)
        mine = raw.reshape(-1, raw.shape[2])
        acted = self._normalized(mine)  # what the policy saw when it acted
        if not self.seen_obs and self.config.normalize.first_rollout:
            self.seen_obs.append(mine)
            obs, next_obs = self._normalized(raw), self._normalized(np.asarray(rollout.next_obs, float))
        else:  # of earlier iterations alone
            obs, next_obs = self._normalized(raw), self._normalized(np.asarray(rollout.next_obs, float))
            self.seen_obs.append(mine)
        reward = np.asarray(rollout.reward, float)
        steps, envs = reward.shape
        terminated, truncated = np.asarray(rollout.terminated), np.asarray(rollout.truncated)

        for t in range(steps):
            self.running = ppo.gamma * self.running + reward[t]
            self.seen_returns.append(self.running)
            self.running = np.where(terminated[t] | truncated[t], 0, self.running)
        scale = np.sqrt(np.concatenate(self.seen_returns).var() + 1e-8)
        limit = self.config.normalize.reward_bound
        reward = self._clip("reward", reward / scale, -limit, limit)

        def estimates():
            """Advantages and targets with the value function as it is now."""
            v = np.stack([value.forward(o)[:, 0] for o in obs])
            v_next = np.stack([value.forward(o)[:, 0] for o in next_obs])
            advantage = np.zeros_like(reward)
            for n in range(envs):
                later = 0.0
                for t in reversed(range(steps)):
                    bootstrap = 0.0 if terminated[t, n] else v_next[t, n]
                    goes_on = not (terminated[t, n] or truncated[t, n])
                    later = (
                        reward[t, n] + ppo.gamma * bootstrap - v[t, n] + ppo.gamma * ppo.lam * goes_on * later
                    )
                    advantage[t, n] = later
            return advantage.ravel(), (v + advantage).ravel()

        rows = obs.reshape(-1, obs.shape[2])
        action = np.asarray(rollout.action, float).reshape(len(rows), -1)
        advantage, target = estimates()
        old = log_prob(policy.forward(acted), log_std, action)
        size = ppo.minibatch_size
        for epoch, order in enumerate(orders):
            if epoch and ppo.recompute_every is not None and epoch % ppo.recompute_every == 0:
                advantage, target = estimates()
            for start in range(0, len(order) - size + 1, size):
                b = order[start : start + size]
                a = (advantage[b] - advantage[b].mean()) / (advantage[b].std() + 1e-8)
                mean = policy.forward(rows[b])
                ratio = np.exp(log_prob(mean, log_std, action[b]) - old[b])
                clipped = self._clip("ratio", ratio, 1 - ppo.clip, 1 + ppo.clip)
                free = (clipped == ratio) | (ratio * a < clipped * a)
                slope = -(free * a * ratio / size)[:, None]  # of the loss by the log-probability
                var = np.exp(2 * log_std)
                weights, biases = policy.backward(slope * (action[b] - mean) / var)
                by_log_std = (slope * ((action[b] - mean) ** 2 / var - 1)).sum(0)
                gradients = [*weights, *biases, by_log_std]
                self.adam_policy.step(self.policy_params, gradients, rate_policy, ppo.max_grad_norm)

                error = value.forward(rows[b])[:, 0] - target[b]
                weights, biases = value.backward((2 * error / size)[:, None])
                self.adam_value.step(self.value_params, [*weights, *biases], rate_value, ppo.max_grad_norm)
