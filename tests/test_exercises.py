"""Every exercise of the course, four ways: blank, with its folded answer, and with the mistakes its hints are for."""

import contextlib
import copy
import io
import re
import types
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from scipy.stats import sem, t
from tiny_policy import tiny_policy

from promptlab import evaluation, ppo
from promptlab.lab import plots
from promptlab.rewards import Calibration, Scores, promptist_reward

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"

DIAGNOSE = "return 'one ending' if {} else 'lost words' if {} else 'luck' if run['fresh'] < run['chosen'] {} else 'fine'"
# (notebook, function): wrong bodies, each with a piece of the hint it must get
MISTAKES = {
    ("00_tour", "gain"): {
        "return sum(new[s] - plain[s] for s in new) / len(new)": "one dict only must not count",  # a KeyError of theirs
        "return (sum(new.values()) - sum(plain.values())) / len(new)": "one dict only must not count",
        "both = plain.keys() & new.keys(); return sum(plain[s] - new[s] for s in both) / len(both)": "better must be positive",
    },
    ("00_tour", "report"): {"return fresh[0]": "Not this", "return max(chosen)": "luck included", "return max(fresh)": "now the new seeds choose"},
    ("00_tour", "diagnose"): {
        DIAGNOSE.format("run['endings'][0] == run['endings'][1]", "run['intent'] < run['plain_intent'] - 0.1", "/ 2"): "are all eight alike",
        DIAGNOSE.format("len(set(run['endings'])) < 8", "run['intent'] < run['plain_intent'] - 0.1", "/ 2"): "are all eight alike",
        DIAGNOSE.format("len(set(run['endings'])) == 1", "run['intent'] < 0.8", "/ 2"): "plain pictures may miss words",
        DIAGNOSE.format("len(set(run['endings'])) == 1", "run['intent'] < run['plain_intent'] - 0.1", ""): "is most lost",
        "return 'luck' if run['new'] < 0 else 'fine'": "the keys are",
    },
    ("01_sft", "masked_loss"): {
        "return torch.nn.functional.cross_entropy(scores, labels)": "guess the token at place 1",
        "return torch.nn.functional.cross_entropy(scores[:-1], labels[1:].clamp(min=0))": "-100 must not count",
        "return torch.nn.functional.cross_entropy(scores[:-1], labels[1:], reduction='sum') / 8": "divide by the number",
        "return torch.nn.functional.cross_entropy(scores[:-1], labels[1:], reduction='sum')": "a mean, not a sum",
        "return -torch.nn.functional.cross_entropy(scores[:-1], labels[1:])": "minus the logarithm",
        "return scores.log_softmax(1).gather(1, labels[:, None]).mean()": "could not be run or read",
        "return float('nan')": "you say nan",
        "loss = torch.nn.functional.cross_entropy(scores[:-1], labels[1:])": "a `return` missing",
    },
    ("01_sft", "bug"): {
        "return 'labels shifted' if min(held_out) == held_out[0] else 'prompt counted' if training[0] > held_out[0] + 0.5 else 'learnt by heart' if held_out[-1] > min(held_out) + 0.2 else 'healthy'": "then turns up",
        "return 'labels shifted' if min(held_out) == held_out[0] else 'learnt by heart' if held_out[-1] > min(held_out) else 'prompt counted' if training[0] > held_out[0] + 0.5 else 'healthy'": "nothing is wrong",
        "return 'labels shifted' if held_out[-1] > held_out[0] else 'learnt by heart' if held_out[-1] > min(held_out) + 0.2 else 'prompt counted' if training[0] > held_out[0] + 0.5 else 'healthy'": "then turns up",
        "return 'healthy'": "who can guess what people will type",
        "return 'healthy' if held_out[-1] < held_out[0] else 'labels shifted'": "who can guess what people will type",
        "return 'prompt counted' if held_out[-1] < training[-1] else 'healthy'": "nothing is wrong",
        "return 'learnt by heart' if held_out[-1] > training[-1] + 0.2 else 'prompt counted' if training[-1] > held_out[-1] else 'healthy'": "nothing is wrong",
        "return 'prompt counted'": "both curves fall",
        "return training[99]": "could not be run or read",
    },
    ("01_sft", "without_placebo"): {
        "return [{**r, 'y': ', '.join(w for w in r['y'].split(', ') if w not in PLACEBO_WORDS)} for r in records][::-1]": "the order",
        "return [{**{k: r[k] for k in ('id', 'kind', 'x')}, 'y': ', '.join(w for w in r['y'].split(', ') if w not in PLACEBO_WORDS)} for r in records]": "a key other than y",
        "return [r for r in records if not set(r['y'].split(', ')) & set(PLACEBO_WORDS)]": "too few examples",
        "import re; return [r | {'y': re.sub('|'.join(PLACEBO_WORDS), '', r['y'])} for r in records]": "empty places",
        "return [r | {'y': ', '.join(r['y'].split(', ')[:2])} for r in records]": "good words were lost",
        "return [r | {'y': r['y'].split(', ')[0]} for r in records]": "good words were lost",
        "return [r | {'y': r['y'].replace(', masterpiece', '')} for r in records]": "still there",
        "return [r | {'x': '', 'y': ', '.join(w for w in r['y'].split(', ') if w not in PLACEBO_WORDS)} for r in records]": "x is not what it was",
        "r = records[0]; return [r | {'y': ', '.join(w for w in r['y'].split(', ') if w not in PLACEBO_WORDS)}] * 400": "more than once",
        "return [{'x': r['x'], 'text': r['y']} for r in records]": "keeps its keys",
    },
    ("02_rewards", "clip_loss"): {
        "return -logits.log_softmax(1).diag().mean()": "softmax down each column is missing",
        "return -logits.log_softmax(0).diag().mean()": "softmax along each row is missing",
        "return -logits.log_softmax(1).diag().mean() - logits.log_softmax(0).diag().mean()": "average them",
        "return (logits.log_softmax(1).diag().mean() + logits.log_softmax(0).diag().mean()) / 2": "sign is turned round",
        "return -logits.flatten().log_softmax(0).view(3, 3).diag().mean()": "One softmax over all nine",
        "return -logits.diag().mean()": "Not this",
        "return logits": "Return one number",
    },
    ("02_rewards", "my_reward"): {
        "return s.wish": "Words are lost",
        "return promptist_reward(s, c)": "is s.wish in it",
        "return -20 * s.wish": "is a sign turned round",
        "return s.aesthetic + s.wish": "weigh it up",
        "return s.wish.mean()": "one number per picture",
    },
    ("02_rewards", "hacked"): {
        "return after['reward'] > before['reward'] and (after['kept'] < 0.9 or after['gold'] < before['gold'] - 0.2)": "convict",
        "return after['gold'] < before['gold'] - 0.2": "Is gold enough",
        "return after['kept'] < before['kept'] - 0.05": "Are kept words enough",
        "return after['reward'] > before['reward']": "convict a sound run",
        "return after['gold'] < before['gold'] or after['kept'] < before['kept']": "as small as noise",
        "return after['gold'] < before['gold'] - 0.2 or after['kept'] < before['kept'] - 0.05": "never rose",
        "return after['reward'] > before['reward'] and (after['kept'] < 0.95 * before['kept'] or after['gold'] < before['gold'] - 0.2)": "as small as noise",
        "return after['golden'] < before['golden']": "KeyError: 'golden'",
    },
    ("03_ppo", "two_lines"): {
        "ratio = (log_p - log_old).exp(); return ratio.clamp(1 - clip, 1 + clip) * A": "Only the clipped product",
        "ratio = (log_p - log_old).exp(); return torch.maximum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)": "PPO is the pessimist",
        "ratio = (log_p - log_old).exp(); return (ratio * A).clamp(1 - clip, 1 + clip)": "the clip is for the ratio",
        "return (log_p - log_old).exp() * A": "Nothing is clipped",
        "ratio = (log_p - log_old).exp(); return -torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)": "has the other sign",
        "ratio = (log_old - log_p).exp(); return torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)": "upside down",
        "ratio = log_p / log_old; return torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)": "quotient of logarithms",
        "ratio = log_p - log_old; return torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)": "still wants exp()",
    },
    ("03_ppo", "bug"): {
        'return "lr"': "Not the steps",
        'return "kl"': "Not the leash",
        'return "scoring"': "Not the scoring",
        'return "patience"': "no proof of health",
        "return 5": "One of reward",
    },
    ("03_ppo", "phrase_pays"): {
        "return torch.tensor([float(phrase in t) for t in written])": "as much as once",
        "return torch.tensor([float(t.count(phrase)) for t in written])": "learn to repeat it",
        "return torch.tensor([float(t.endswith(phrase)) for t in written])": "it may stand anywhere",
        "return torch.ones(len(written))": "cannot know what you want",
        "return -torch.tensor([float(phrase in t) for t in written])": "punishes the phrase",
    },
    ("04_evaluation", "my_interval"): {
        "return plots.interval((b - a).mean(1))[1:]": "better must be positive",
        "return evaluation.interval(a.mean(1), minus=b.mean(1))[1:]": "each rates both",
        "return plots.interval((a - b).ravel())[1:]": "average within each",
        "return plots.interval((a - b).mean(0))[1:]": "one number for each person",
        "d = (a - b).mean(1); half = 1.96 * d.std(ddof=1) / len(d)**0.5; return d.mean() - half, d.mean() + half": "12 need Student's t",
        "return np.percentile(a - b, (2.5, 97.5))": "ends of single differences",
        "d = (a - b).mean(1); return t.interval(0.8, 11, d.mean(), sem(d))": "80 times in 100",
        "d = (a - b).mean(1); return t.interval(0.9, 11, d.mean(), sem(d))": "90 times in 100",
        "d = (a - b).mean(1); return t.interval(0.99, 11, d.mean(), sem(d))": "99 times in 100",
        "d = (a - b).mean(1); return np.percentile(np.random.default_rng().choice(d, (20, 12)).mean(1), (2.5, 97.5))": "drawn anew is luck",
        "d = (a - b).mean(1); return np.percentile(np.random.default_rng().choice(d, (2000, 6)).mean(1), (2.5, 97.5))": "drawn anew is luck",
        "d = (a - b).mean(1); return np.percentile(np.random.default_rng(0).choice(d, (2000, 12)).mean(1), (2.5, 97.5))": "Not this",
        'return {}["low"]': "could not be run or read (KeyError",
    },
    ("04_evaluation", "my_diagnosis"): {
        'return "fine"': "miss seeds that chose",
        'return "prompts"': "call honest ones doctored",
        'return "seeds" if gain[:, chose].mean() > gain[:, ~chose].mean() else "fine"': "means differ by luck",
        'return "seeds" if evaluation.interval(gain[:, chose].ravel(), minus=gain[:, ~chose].ravel())[1] > 0 else "prompts" if evaluation.interval(gain.mean(1)[seen], minus=gain.mean(1)[~seen])[1] > 0 else "fine"': "subtract within each",
        'return "seeds" if plots.interval(gain[:, chose].mean(1) - gain[:, ~chose].mean(1))[1] > 0 else "fine"': "miss seen prompts",
        """seeds = plots.interval(gain[:, chose].mean(1) - gain[:, ~chose].mean(1))[1] > 0
    prompts = evaluation.interval(gain[seen].ravel(), minus=gain[~seen].ravel())[1] > 0
    return "seeds" if seeds else "prompts" if prompts else "fine\"""": "call honest ones doctored",
        """by_seed = gain[:, chose].mean() - gain[:, ~chose].mean()
    return "seeds" if by_seed > 0.15 else "prompts" if gain[seen].mean() - gain[~seen].mean() > 1 else "fine\"""": "",
        'return "leak"': "none of the three words",
    },
    ("04_evaluation", "my_runs"): {
        "return min(range(1, budget // cost + 1), key=lambda k: prompt_sd**2 / (budget - cost * k) + run_sd**2 / k)": "",
        "return min(range(1, (budget - 1) // cost + 1), key=lambda k: prompt_sd**2 / (budget - cost * (k - 1)) + run_sd**2 / k)": "Not this",
        "return 1": "all runs agree",
        "return (budget - 1) // cost": "too few prompts",
        "return min(range(1, (budget - 1) // cost + 1), key=lambda k: prompt_sd / (budget - cost * k)**.5 + run_sd / k**.5)": "variances do",
        "return min(range(1, (budget - 1) // cost + 1), key=lambda k: (prompt_sd**2 + run_sd**2) / (k * (budget - cost * k)))": "its own number",
    },
    ("05_playground", "pictures"): {
        "return n * seeds": "plain pictures are missing",
        "return 2 * n * seeds": "drawn once, for all rewrites",
        "return n + seeds": "multiply",
        "return 1000": "Not this",
    },
    ("05_playground", "agrees"): {
        "made = [c for c in choices if c[0] in ('left', 'right')]; return sum((l > r) + 0.5 * (l == r) for a, l, r in made if a == 'left') / len(made)": "Not this",
        "return sum((l > r) == (a == 'left') for a, l, r in choices if a in ('left', 'right')) / sum(a in ('left', 'right') for a, l, r in choices)": "wrong about neither",
        "return sum((l >= r) == (a == 'left') for a, l, r in choices if a in ('left', 'right')) / sum(a in ('left', 'right') for a, l, r in choices)": "prefer nobody",
        "p = [0.5 if l == r else float((l > r) == (a == 'left')) for a, l, r in choices if a in ('left', 'right')]; return sum(p) / len(choices)": "leave it out of the number",
        "p = [0.5 if l == r else float((l < r) == (a == 'left')) for a, l, r in choices if a in ('left', 'right')]; return sum(p) / len(p)": "turned round",
        "return 0.123": "Not this",
    },
    ("05_playground", "capped"): {
        "return (s.aesthetic - s.aesthetic_plain).clamp(0, cap)": "A loss still costs",
        "return (s.aesthetic - s.aesthetic_plain).clamp(-cap, cap)": "A loss costs in full",
        "return s.aesthetic.clamp(max=cap)": "not the rating",
        "return (s.aesthetic - s.aesthetic_plain).mean().clamp(max=cap)": "one number per picture",
        "return (s.aesthetic - s.aesthetic_plain).clamp(min=cap)": "max= cuts above",
        "return s.aesthetic - s.aesthetic_plain": "Not this",
        "return 3": "Return 9 values",
    },
    ("07_your_taste", "pair_loss"): {
        "return -torch.nn.functional.logsigmoid(chosen - other).sum()": "A mean over pairs",
        "return torch.nn.functional.logsigmoid(chosen - other).mean()": "sign is turned round",
        "return -torch.nn.functional.logsigmoid(other - chosen).mean()": "chosen minus other",
        "return torch.sigmoid(chosen - other).mean()": "logarithm is missing",
        "return -(torch.nn.functional.logsigmoid(chosen) + torch.nn.functional.logsigmoid(-other)).mean()": "is binary",
        "return -(torch.nn.functional.logsigmoid(chosen) + torch.nn.functional.logsigmoid(-other)).mean() / 2": "is binary",
        "return -torch.nn.functional.logsigmoid(chosen - other)": "One number",
        "return (other - chosen).mean()": "Not this",
    },
    ("07_your_taste", "share_right"): {
        "return sum(a > b for a, b in pairs) / len(pairs)": "Not this",
        "return sum(ratings[a] >= ratings[b] for a, b in pairs) / len(pairs)": "counts as right",
        "return sum(ratings[a] > ratings[b] for a, b in pairs) / len(pairs)": "counts as wrong",
        "return sum((ratings[a] < ratings[b]) + 0.5 * (ratings[a] == ratings[b]) for a, b in pairs) / len(pairs)": "chosen comes first",
        "return sum(ratings[a] > ratings[b] for a, b in pairs) / sum(ratings[a] != ratings[b] for a, b in pairs)": "Ties are left out",
        "return sum((ratings[a] > ratings[b]) + 0.5 * (ratings[a] == ratings[b]) for a, b in pairs)": "divide by the number",
        "return [ratings[a] > ratings[b] for a, b in pairs]": "Return one number",
    },
    ("07_your_taste", "diagnose"): {
        "return 'careless' if again < 0.6 else 'fine' if new > again - 0.1 else 'more choices' if abs(seen - again) < 0.1 else 'cannot see'": "above again is as good",
        "return 'careless' if again < 0.6 else 'fine' if new > again - 0.1 else 'more choices' if seen - new > 0.1 else 'cannot see'": "stays behind again",
        "return 'fine' if new > again - 0.1 else 'more choices'": "answers by chance",
        "return 'careless' if again < 0.6 else 'more choices' if new < 0.9 else 'fine'": "Nothing is wrong",
        "return 'careless' if again < 0.6 else 'fine' if new > again - 0.1 else 'cannot see'": "learnt by heart",
        "return 'careless' if again < 0.6 else 'fine' if new > again - 0.1 else 'more choices'": "more of them will not help",
        "return 'careless' if again < 0.6 else 'cannot see' if seen < 0.7 else 'fine' if new > seen - 0.1 else 'more choices'": "need not be as good",
    },
    ("08_evolving_keywords", "crossover"): {
        "return other[:i] + one[i:j] + other[j:]": "ends belong to the first",
        "return one[:i] + other[i:]": "behind j the first goes on",
        "return one[:i] + other[i:j + 1] + one[j + 1:]": "belongs to the first",
        "return one[:i] + other[:j - i] + one[j:]": "starts at i",
        "return ''.join(one)": "values",
    },
    ("08_evolving_keywords", "needed"): {
        "return 1.96**2 * p * (1 - p) / (2 * p - 1) ** 2": "not to 1 - p",
        "return 1.96 * (p * (1 - p)) ** 0.5 / (p - 0.5)": "both sides are squared",
        "return 1.96**2 * 0.25 / (p - 0.5) ** 2": "belongs to the share p",
        "return 1.96 * p * (1 - p) / (p - 0.5) ** 2": "1.96 enters",
        "return 'many'": "Return one number",
    },
    ("08_evolving_keywords", "diagnose"): {
        "return 'mutation' if max(run['keywords']) > 15 else 'reader' if run['again'] <= 0.6 else 'luck' if run['met'] < 10 else 'fine'": "sound run",
        "return 'mutation' if run['keywords'][-1] > 10 else 'reader' if run['again'] <= 0.6 else 'luck' if run['met'] < 10 else 'fine'": "sound run",
        "return 'fine'": "More than fifteen",
        "return 'mutation' if run['keywords'][-1] > run['keywords'][0] else 'fine'": "grow a little",
        "return 'mutation' if run['keywords'][-1] > 15 else 'reader' if run['again'] < 0.3 else 'fine'": "Chance is .5",
        "return 'mutation' if run['keywords'][-1] > 15 else 'reader' if run['again'] <= 0.6 else 'fine'": "Few comparisons",
        "return 'luck' if run['champion'] < 10 else 'fine'": "KeyError: 'champion'",
    },
    ("10_other_learners", "advantages"): {
        "m = sum(rewards) / len(rewards); return [r - m for r in rewards]": "not divided by the spread",
        "m = sum(rewards); return [r - (m - r) / (len(rewards) - 1) for r in rewards]": "RLOO's",
        "m, n = sum(rewards) / len(rewards), len(rewards); s = (sum((r - m) ** 2 for r in rewards) / n) ** 0.5; return [(r - m) / s for r in rewards]": "divide by 5",
        "return sum(rewards)": "Return 6 values",
    },
    ("10_other_learners", "dpo_loss"): {
        "return math.log(1 + math.exp(-beta * (b - w)))": "SFT's opinion is missing",
        "return math.log(1 + math.exp(beta * (b - b0 - w + w0)))": "turned round",
        "return math.log(1 + math.exp(-(b - b0 - w + w0)))": "times beta",
        "return [beta]": "Return one number",
    },
    ("10_other_learners", "choose"): {
        "return max((r, name) for name, line in table.items() for k, n, r in line if k <= most)[1]": "too far from SFT",
        "return max((r, name) for name, line in table.items() for k, n, r in line if n <= far)[1]": "too many pictures",
        "return max((r, name) for name, line in table.items() for k, n, r in line)[1]": "both limits",
        "return 'none of them'": "Not this",
    },
    ("11_pretraining", "extra"): {
        "return -abs((pretrained_out - ours_out) - (pretrained_in - ours_in))": "Turned round",
        "return pretrained_out - ours_out": "in domain it has one too",
        "return (pretrained_in - ours_in) - (pretrained_out - ours_out)": "Turned round",
        "return pretrained_out": "Not this",
        "return 'more'": "Return one number",
        "return abs((pretrained_out - ours_out) - (pretrained_in - ours_in))": "Turned round",
    },
    ("11_pretraining", "fair_pair"): {
        "return next([a, b] for a in runs for b in runs if runs[a]['model'] != runs[b]['model'])": "That may be the cause",
        "return next([a, b] for a in runs for b in runs if sum(runs[a][k] != runs[b][k] for k in runs[a]) == 1)": "Both are the same model",
        "return next([a, b] for a in runs for b in runs if a != b and all(runs[a][k] == runs[b][k] for k in ('model', 'examples', 'updates')))": "differ in seed",
        "return next(a for a in runs if runs[a]['model'] == 'large')": "Return two names",
        "return list(runs.values())[:2]": "Return two names",
    },
    ("11_pretraining", "perplexity"): {
        "every = [v for row in logs for v in row]; return sum(math.exp(-v) for v in every) / len(every)": "exponential of the mean",
        "return math.exp(-sum(sum(row) / len(row) for row in logs) / len(logs))": "each counts once",
        "every = [v for row in logs for v in row]; return math.exp(sum(every) / len(every))": "surprise is not",
    },
}

# Right answers by other means than the folded one: what they return is as right.
RIGHT = [
    ("00_tour", "report", "import numpy; return numpy.array(fresh)[numpy.argmax(chosen)]"),
    (
        "01_sft",
        "without_placebo",
        "return [dict(r, y=', '.join(w for w in r['y'].split(', ') if w not in set(PLACEBO_WORDS))) for r in records]",
    ),
    (
        "01_sft",
        "without_placebo",
        "[r.update(y=', '.join(w for w in r['y'].split(', ') if w not in PLACEBO_WORDS)) for r in records]; return records",  # copies
    ),
    ("03_ppo", "two_lines", "q = (log_p.double() - log_old.double()).exp(); return torch.minimum(q * A, q.clamp(1 - clip, 1 + clip) * A)"),
    ("02_rewards", "my_reward", "s.aesthetic -= s.aesthetic_plain; return 20 * s.wish + s.aesthetic + (60 * (s.relevance - 0.35)).clamp(max=0)"),
    ("02_rewards", "my_reward", "return (1000 * s.wish + 99 * s.aesthetic.neg().clamp(max=0) + 9999 * (s.relevance - 0.35).clamp(max=0)).int() + len(s) * 0"),
    ("05_playground", "capped", "return [min(float(a - b), cap) for a, b in zip(s.aesthetic, s.aesthetic_plain)]"),
    ("05_playground", "capped", "gain = (s.aesthetic - s.aesthetic_plain).double(); return torch.where(gain > cap, cap, gain)"),
    (
        "07_your_taste",
        "share_right",
        "r = torch.tensor(ratings); d = torch.stack([r[a] - r[b] for a, b in pairs]); return (d.sign() / 2 + 0.5).mean()",
    ),
    ("08_evolving_keywords", "crossover", "return (other[k] if i <= k < j else one[k] for k in range(len(one)))"),
    ("08_evolving_keywords", "needed", "import fractions; return fractions.Fraction(1.96**2 * p * (1 - p) / (p - 0.5) ** 2)"),
    ("08_evolving_keywords", "needed", "import numpy; return numpy.float32(1.96**2 * p * (1 - p) / (p - 0.5) ** 2)"),
    ("10_other_learners", "advantages", "r = torch.tensor(rewards); return ((r - r.mean()) / r.std()).tolist()"),
    ("10_other_learners", "dpo_loss", "m = beta * ((b - b0) - (w - w0)); return torch.nn.functional.softplus(torch.tensor(-m))"),
    (
        "10_other_learners",
        "choose",
        "fit = [(r, n) for n, rows in table.items() for k, d, r in rows if k <= most and d <= far]; return max(fit, key=lambda v: v[0])[1]",
    ),
    (
        "11_pretraining",
        "fair_pair",
        "return frozenset(next((a, b) for a in runs for b in runs if [k for k in runs[a] if runs[a][k] != runs[b][k]] == ['model']))",
    ),
    ("11_pretraining", "perplexity", "return torch.tensor([v for row in logs for v in row]).mean().neg().exp().item()"),
]


def exercise_cells(name):
    """The code cells of a notebook's exercises: functions to fill in and their checks."""
    cells = nbformat.read(next(FOLDER.rglob(f"{name}.ipynb")), 4).cells
    start = next(i for i, c in enumerate(cells) if c.cell_type == "markdown" and re.match(r"## .*xercises", c.source))
    return [c for c in cells[start:] if c.cell_type == "markdown" or re.search(r"^def |^check\(", c.source, re.M)]


def folded_answer(name, function):
    """The lines of the answer that stands folded behind an exercise, as a function body."""
    cells = exercise_cells(name)
    at = next(i for i, c in enumerate(cells) if c.cell_type == "code" and c.source.startswith(f"def {function}("))
    text = next(c.source for c in cells[at:] if c.cell_type == "markdown" and "<summary>Answer" in c.source)
    block = re.search(r"<summary>Answer</summary>\s*```python\ndef .*?\n(.*?)```", text, re.S)
    return block[1] if block else "    " + re.search(r"<summary>Answer</summary>\s*`(.*?)`", text, re.S)[1]


def said(name, function=None, body=None):
    """What the checks of a notebook print, by exercise, once `body` stands in one of its functions."""
    known = {"torch": torch, "np": np, "plots": plots, "evaluation": evaluation, "t": t, "sem": sem, **neon_signs(), **probe()}
    printed, names = [], []
    for cell in exercise_cells(name):
        if cell.cell_type == "markdown":
            continue
        source, head = cell.source, re.match(r"def (\w+)\(.*\):\n", cell.source)
        if head and not cell.metadata.get("jupyter", {}).get("source_hidden"):
            names.append(head[1])
            if head[1] == function:
                source = re.sub(r"^    .*$", lambda _: body, source, count=1, flags=re.M)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(source, known)
        printed += out.getvalue().splitlines() if "check(" in source else []
    return dict(zip(names, printed, strict=True))


def neon_signs():
    """240 pictures, a third of them neon, which CLIP sees and the head dislikes; half of these lose a word, and relevance with it."""
    torch.manual_seed(0)
    number = torch.arange(240)
    neon, lost = number % 3 == 0, number % 6 == 0
    beauty, relevance = 5 + torch.randn(240) - neon.float(), 0.35 - 0.3 * lost.float()
    scores = Scores(number, torch.ones(240), beauty, 5 + torch.randn(240), relevance, torch.full((240,), 0.35))
    scores.wish = 0.2 + 0.5 * neon.float() + 0.01 * torch.rand(240)
    sheet = types.SimpleNamespace(
        prompts=["a fox, neon sign" if n else "a fox, photo" for n in neon],
        kept=~lost,
        top=lambda values, count=16: values.argsort(descending=True, stable=True)[:count].tolist(),
    )
    return {"s": scores, "sheet": sheet, "c": Calibration(8.5, 0.35, 1.0), "promptist_reward": promptist_reward}


def probe():
    """What the probe of 03_ppo needs, with a policy so small that it learns in a second what the course's learns in ten."""
    small = {"prompts": 5, "samples": 16, "new_tokens": 6, "minibatch": 40, "epochs": 2, "lr": 3e-3, "kl": 0.0}
    pool = ["a frog", "a red castle", "blue frog", "castle", "red frog"]
    names = {"start": tiny_policy(), "pool": pool, "phrases": ["vivid"], "small": small, "updates": 60}

    def trial(reward, updates):
        run = ppo.PPO(copy.deepcopy(names["start"]), ppo.Settings(**small))
        for _ in range(updates):
            run.update(pool, reward)
        return run

    return {"trial": trial, **names}


@pytest.mark.parametrize("name", sorted({name for name, _ in MISTAKES}))
def test_blank_exercises_say_not_yet(name):
    known = {f for n, f in MISTAKES if n == name}
    assert said(name) == dict.fromkeys(known, "not yet"), "every exercise of the notebook needs its row in MISTAKES"


@pytest.mark.parametrize("name, function", MISTAKES)
def test_folded_answers_pass(name, function):
    lines = said(name, function, "    import math\n" + folded_answer(name, function))
    assert lines.pop(function).lower().startswith("right")
    assert set(lines.values()) == {"not yet"}


@pytest.mark.parametrize("name, function, body", RIGHT)
def test_other_right_answers_pass(name, function, body):
    for _ in range(3):  # inputs are random
        assert said(name, function, f"    import math\n    {body}")[function].lower().startswith("right")


@pytest.mark.parametrize("body", ["return wrong", "raise ValueError('a slip')", "return [[1], 'two']"])
@pytest.mark.parametrize("name", sorted({name for name, _ in MISTAKES}))
def test_a_slip_in_an_answer_stops_nothing(name, body):
    for function in [f for n, f in MISTAKES if n == name]:
        line = said(name, function, f"    {body}")[function]
        assert line and not line.lower().startswith("right")


def test_a_diagnosis_that_looks_at_both_sides_of_zero_passes():
    body = """    sides = lambda interval: not interval[1] <= 0 <= interval[2]
    seeds = plots.interval(gain[:, chose].mean(1) - gain[:, ~chose].mean(1))
    each = gain.mean(1)
    prompts = evaluation.interval(each[seen], minus=each[~seen])
    return "seeds" if sides(seeds) else "prompts" if sides(prompts) else "fine\""""
    assert said("04_evaluation", "my_diagnosis", body)["my_diagnosis"].startswith("Right.")


@pytest.mark.parametrize("name, function, body, hint", [(n, f, b, h) for (n, f), wrong in MISTAKES.items() for b, h in wrong.items()])
def test_mistakes_get_their_own_hint(name, function, body, hint):
    said_here = said(name, function, f"    import math\n    {body}")[function]
    assert hint.lower() in said_here.lower() and not said_here.lower().startswith("right.")
