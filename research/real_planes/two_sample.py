"""Classifier two-sample test: how well a small network tells real from simulated patches of subjects that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FOLDS, STEPS, BATCH, RATE = 5, 300, 32, 3e-3


def real_vs_phantom_auc(
    real: Sequence[tuple[str, np.ndarray]], simulated: Sequence[tuple[str, np.ndarray]], seed: int = 0, steps: int = STEPS
) -> dict:
    """AUC of a 2D network over patches out of fold, with the interval of a bootstrap over subjects.

    real, simulated: subject and patch (N, N) over its median. Subjects are split into FOLDS, real and simulated ones alike.
    steps: of the optimizer, in each fold.
    """
    rng = np.random.default_rng(seed)
    names = [name for name, _ in (*real, *simulated)]
    pixels = np.stack([p for _, p in (*real, *simulated)]).astype(np.float32) - 1
    label = np.repeat([1.0, 0.0], [len(real), len(simulated)]).astype(np.float32)
    fold: dict[str, int] = {}
    for part in (real, simulated):
        subjects = rng.permutation(sorted({name for name, _ in part}))
        fold.update({str(s): n % FOLDS for n, s in enumerate(subjects)})
    number = np.array([fold[n] for n in names])
    score = np.zeros(len(label))
    for k in range(FOLDS):
        score[number == k] = _train(pixels[number != k], label[number != k], pixels[number == k], seed + k, steps)
    auc = _auc(label, score)
    who, kinds = np.array(names), dict(zip(names, label, strict=True))
    drawn = []
    for _ in range(500):
        chosen = [rng.choice([n for n, y in kinds.items() if y == kind], sum(y == kind for y in kinds.values())) for kind in (1, 0)]
        rows = np.concatenate([np.flatnonzero(who == n) for n in np.concatenate(chosen)])
        drawn.append(_auc(label[rows], score[rows]))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"auc": round(auc, 3), "low": round(float(low), 3), "high": round(float(high), 3), "patches": len(label)}


def _train(pixels: np.ndarray, label: np.ndarray, held_out: np.ndarray, seed: int, steps: int) -> np.ndarray:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-2)
    weight = np.where(label == 1, 0.5 / label.mean(), 0.5 / (1 - label.mean())).astype(np.float32)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
        some = rng.choice(len(label), min(BATCH, len(label)), replace=False)
        turned = np.rot90(pixels[some], int(rng.integers(4)), axes=(1, 2))
        turned = turned[:, ::-1] if rng.random() < 0.5 else turned
        logit = model(torch.from_numpy(np.ascontiguousarray(turned[:, None])))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(
            logit, torch.from_numpy(label[some]), weight=torch.from_numpy(weight[some])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(held_out[:, None]))[:, 0].numpy()


def _auc(label: np.ndarray, score: np.ndarray) -> float:
    from scipy.stats import rankdata

    positive = label == 1
    ranks = rankdata(score)
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))
