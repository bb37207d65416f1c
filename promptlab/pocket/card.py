"""The model card: every bar of the pocket world, measured on seeds that training never saw."""

import datetime
import json
import time
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr

from promptlab.pocket import fidelity, suffixes
from promptlab.pocket.captions import MEDIUM_WORDS, caption, claim_as_people
from promptlab.pocket.clip import encode_attributes, true_of
from promptlab.pocket.judge import look, name, shows
from promptlab.pocket.pairs import render_all, sample_pictures
from promptlab.pocket.pictures import COLOURS, HARMFUL, MEDIA
from promptlab.pocket.subjects import SUBJECTS, with_article
from promptlab.pocket.taste import gold, truth_as_seen
from promptlab.runtime import device, hardware, write_atomically

COMMAND = "python -m promptlab.pocket card"
PER_MEDIUM, PAIRS = 40, 240  # drawn prompts that ask for each medium, and for two nouns
FINE = {"pixel art", "stained glass"}  # swallow a pair
COLOURLESS = {"pencil sketch", "neon", "silhouette"}  # and black and white: lose a colour


def record(what, value, bar=None):
    """One figure of the card; `bar` like ">= 97"."""
    value = round(float(value), 4)
    print(f"{what:75s} {value:10.3f}   {bar or ''}", flush=True)
    return {"name": what, "value": value, "bar": bar, "command": COMMAND}


def meets(item) -> bool:
    """Whether a record meets its bar."""
    sign, limit = (item["bar"] or ">= -inf").split()
    return item["value"] >= float(limit) if sign == ">=" else item["value"] < float(limit) if sign == "<" else item["value"] <= float(limit)


def area_under_curve(right, wrong):
    """The chance that a right pair scores above a wrong one (ties half)."""
    ranks = rankdata(np.concatenate([right, wrong]))
    return (ranks[: len(right)].sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong))


def share(flags):
    return 100 * np.mean(flags)


def renders(vae, judge, rate, clip):
    """Autoencoder, judge and aesthetic head on true renders of held-out (subject, medium) pairs."""
    from promptlab.pocket.autoencoder import psnr

    pictures = sample_pictures(2000, 99, held=True)
    images = render_all(pictures)
    facts = name(look(judge, images))
    clean = [not HARMFUL & set(p.effects) for p in pictures]
    found = [shows(f, p) for f, p in zip(facts, pictures, strict=True)]
    single = [f[p.subjects[0]] for f, p, c in zip(found, pictures, clean, strict=True) if c and len(p.subjects) == 1]
    pairs = [
        all(f[s] for s in p.subjects)
        for f, p, c in zip(found, pictures, clean, strict=True)
        if c and len(p.subjects) == 2 and p.medium not in FINE
    ]
    colours = [f[p.colour] for f, p, c in zip(found, pictures, clean, strict=True) if c and p.colour and p.medium not in COLOURLESS]
    truth = gold(images, truth_as_seen(pictures))
    out = [
        record("autoencoder PSNR, dB", psnr(vae, images[:1000]), ">= 30"),
        record("judge on renders: subject, % (no harmful effect)", share(single), ">= 97"),
        record("judge on renders: colour, % (media that keep one)", share(colours), ">= 95"),
        record("judge on renders: both of a pair, % (media that keep one)", share(pairs), ">= 85"),
        record("aesthetic head against gold on renders, Spearman", spearmanr(rate(clip.embed_images(images)), truth)[0], ">= 0.85"),
        record("gold through the judge against gold from the truth, Spearman", spearmanr(gold(images, look(judge, images)), truth)[0]),
    ]
    for medium in MEDIA:
        right = [f[p.subjects[0]] for f, p in zip(found, pictures, strict=True) if p.medium == medium and len(p.subjects) == 1]
        if right:
            out.append(record(f"judge on renders: subject in {medium}, %", share(right), ">= 60"))
    return out


def drawn(gallery):
    """Does the generator draw what the prompt says? The judge looks at prompts of one content word and one attribute."""
    rng = np.random.default_rng(7)
    ask = lambda prompts, seed: gallery.facts(prompts, [seed + i for i in range(len(prompts))], progress=True)  # noqa: E731
    plain = [with_article(s) for s in SUBJECTS for _ in range(2)]
    right = [f["subjects"][:1] == [s] for f, s in zip(ask(plain, 10_000), [s for s in SUBJECTS for _ in range(2)], strict=True)]
    out = [record("drawn plain prompts: right subject, %", share(right), ">= 97")]
    media = []
    for medium in MEDIA:
        prompts = [f"{with_article(s)}, {rng.choice(MEDIUM_WORDS[medium])}" for s in rng.choice(SUBJECTS, PER_MEDIUM)]
        media.append(share([f["medium"] == medium for f in ask(prompts, 20_000)]))
        out.append(record(f"drawn: medium {medium}, %", media[-1]))
    out.insert(1, record("drawn: right medium, mean over media, %", np.mean(media), ">= 95"))
    colours = [(s, str(rng.choice(list(COLOURS)))) for s in SUBJECTS]
    facts = ask([with_article(*c) for c in colours], 30_000)
    out.append(record("drawn: right colour, %", share([f["colour"] == c for f, (_, c) in zip(facts, colours, strict=True)]), ">= 90"))
    out.append(
        record("drawn with a colour: right subject, %", share([f["subjects"][:1] == [s] for f, (s, _) in zip(facts, colours, strict=True)]))
    )
    pairs = [tuple(map(str, rng.choice(SUBJECTS, 2, replace=False))) for _ in range(PAIRS)]
    facts = ask([" and ".join(map(with_article, p)) for p in pairs], 40_000)
    out.append(
        record("drawn: both of a pair, %", share([set(f["subjects"]) == set(p) for f, p in zip(facts, pairs, strict=True)]), ">= 70")
    )
    out.append(
        record("drawn: at least one of a pair, %", share([bool(set(f["subjects"]) & set(p)) for f, p in zip(facts, pairs, strict=True)]))
    )
    return out


def relevance_and_taste(scorer):
    """CLIP and aesthetic head on drawn pictures of full prompts."""
    import random

    rng, gallery = random.Random(5), scorer.gallery
    claims = [claim_as_people(p, rng) for p in sample_pictures(1000, 98)]
    texts = [caption(c, rng) for c in claims]
    seeds = list(range(50_000, 50_000 + len(texts)))
    images, facts = gallery.embeddings(texts, seeds, progress=True), gallery.facts(texts, seeds)
    rated, golds = scorer.rate(images).numpy(), np.array([f["gold"] for f in facts])
    out = [record("aesthetic head against gold on drawn pictures, Spearman", spearmanr(rated, golds)[0], ">= 0.75")]
    out.append(record("CLIP: right caption among 100, %", share(hits_among_100(scorer, claims, texts, images, rng)), ">= 70"))
    single = [i for i, c in enumerate(claims) if len(c.subjects) == 1]
    bare = scorer.texts([with_article(claims[i].subjects[0]) for i in single])
    other = scorer.texts([with_article(rng.choice([s for s in SUBJECTS if s != claims[i].subjects[0]])) for i in single])
    cosine, wrong = (images[single] * bare).sum(1), (images[single] * other).sum(1)
    shown = np.array([facts[i]["subjects"][:1] == [claims[i].subjects[0]] for i in single])
    out.append(record("CLIP: right against wrong bare subject, area under curve", area_under_curve(cosine[shown], wrong[shown]), ">= 0.97"))
    out.append(
        record(
            "CLIP: bare cosine against gold where the subject is right, size of Spearman",
            abs(spearmanr(cosine[shown], golds[single][shown])[0]),
            "< 0.25",
        )
    )
    coloured = [(s, c) for s in SUBJECTS[::2] for c in (rng.choice(list(COLOURS)),)]
    pictures = gallery.embeddings([with_article(*c) for c in coloured], range(60_000, 60_000 + len(coloured)), progress=True)
    right = (pictures * scorer.texts([with_article(*c) for c in coloured])).sum(1)
    wrong = (pictures * scorer.texts([with_article(s, rng.choice([x for x in COLOURS if x != c])) for s, c in coloured])).sum(1)
    out.append(record("CLIP: right against wrong colour, area under curve", area_under_curve(right, wrong), ">= 0.9"))
    return out


def hits_among_100(scorer, claims, texts, images, rng):
    """Whether each picture's own caption beats 99 others: 50 that share its medium, 49 that share a subject, none true of it."""
    facts, pool, result = encode_attributes(claims), [caption(c, rng) for c in claims], []
    for i in [i for i, c in enumerate(claims) if c.medium][::4]:
        some = rng.sample(range(len(claims)), 700)
        same_subject = [replace(claims[j], subjects=claims[i].subjects, colour=claims[i].colour) for j in some[:120]]
        false = lambda candidates: ~true_of(encode_attributes(candidates), facts[i : i + 1])[:, 0]  # noqa: B023, E731
        by_subject = [caption(c, rng) for c, wrong in zip(same_subject, false(same_subject), strict=True) if wrong][:49]
        same_medium = [
            j for j, wrong in zip(some, false([claims[j] for j in some]), strict=True) if wrong and claims[j].medium == claims[i].medium
        ]
        others = by_subject + [pool[j] for j in same_medium[: 99 - len(by_subject)]]
        cosines = scorer.clip.embed_texts([texts[i], *others]) @ images[i]
        result.append(cosines.argmax() == 0)
    return result


def timing(generator):
    """Milliseconds a picture as the preset draws it, beside the bare calls of UNet and decoder in the same run."""
    n, passes = generator.batch, 2 if generator.guidance > 1 else 1  # guidance asks the UNet twice a step
    prompts, pipe = [with_article(s) for s in SUBJECTS[:n]], generator.pipe
    x, states = torch.randn(passes * n, 16, 16, 16, device=pipe.device), generator.encode([prompts[0]]).expand(passes * n, -1, -1)

    def clock(call):
        call()
        runs = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            runs.append((time.perf_counter() - start) / n * 1000)
        return float(np.median(runs))

    with torch.inference_mode():
        unet = generator.steps * clock(lambda: pipe.unet(x.to(pipe.unet.dtype), 500, encoder_hidden_states=states))
        decoder = clock(lambda: pipe.vae.decode(x[:n]))
    whole = clock(lambda: generator.generate(prompts, range(n)))
    return [
        record(f"milliseconds a picture, {generator.steps} steps", whole, "<= 45"),
        record("of it: bare UNet calls", unet),
        record("of it: decoder", decoder),
        record("everything else on top, %", 100 * (whole / (unet + decoder) - 1), "<= 10"),
    ]


def taste_on_renders():
    def rate(entries):
        pictures, out = [suffixes.picture_of(*e) for e in entries], []
        for i in range(0, len(pictures), 4000):
            out.append(gold(render_all(pictures[i : i + 4000]), truth_as_seen(pictures[i : i + 4000])))
        return np.concatenate(out)

    return taste("renders", suffixes.compare(rate))


def taste_on_drawn(gallery):
    def rate(entries):
        prompts = [with_article(s) + (f", {suffixes.suffix(c)}" if c else "") for s, c, _ in entries]
        return [f["gold"] for f in gallery.facts(prompts, [70_000 + seed for _, _, seed in entries], progress=True)]

    return taste("drawn pictures", suffixes.compare(rate, per_kind=1))


def taste(where, result):
    out = []
    for key, bar in (("plain", None), ("fixed", None), ("by kind", None), ("fixed - plain", ">= 1"), ("by kind - fixed", ">= 0.8")):
        mean, low, high = result[key]
        out.append(record(f"gold on {where}: {key}", mean, bar) | {"low": round(low, 4), "high": round(high, 4)})
    out.append(
        record(f"gold on {where}: largest share of subjects one medium is best for", result["largest share of one medium"], "<= 0.5")
    )
    print(result["fixed suffix"], result["suffix by kind"])
    return [r | {"note": result["fixed suffix"]} if r["name"].endswith(": fixed") else r for r in out]


def fidelity_to_truth(generator, vae):
    """How close drawn pictures come to true ones, beside what the autoencoder alone makes of these."""
    found = fidelity.measure(generator, vae)
    plain, out = found["plain"], []
    out.append(record("drawn plain prompts: nearest true picture, SSIM", plain["ssim"], ">= 0.9"))
    out.append(record("drawn plain prompts: nearest true picture, dB", plain["psnr"], ">= 25"))
    out.append(record("drawn plain prompts: worst tenth of nouns, SSIM", plain["worst"], ">= 0.82"))
    for group, bar in (("styled", "<= 0.08"), ("coloured", "<= 0.08"), ("pairs", "<= 0.12")):
        out.append(record(f"drawn {group}: nearest true picture, SSIM", found[group]["ssim"]))
        out.append(record(f"drawn {group}: worst tenth of nouns, SSIM", found[group]["worst"]))
        out.append(record(f"drawn {group}: SSIM that the autoencoder alone has more", found[group]["autoencoder"] - found[group]["ssim"], bar))
    out.insert(3, record("autoencoder on the same plain pictures, SSIM", plain["autoencoder"]))
    return out


def kindness(generator, judge):
    """How often the judge names a subject where a person finds none."""
    seen = {way: name(look(judge, images)) for way, images in fidelity.nameless(generator).items()}
    every = [bool(fact["subjects"]) for facts in seen.values() for fact in facts]
    out = [record("pictures of nothing: the judge names a subject, %", share(every), "<= 10")]
    return out + [record(f"pictures of nothing: {way}, %", share([bool(f["subjects"]) for f in facts])) for way, facts in seen.items()]


def measure(out, preset, folder):
    """All records of the world in folder `out`, which `preset` names; pictures are remembered in `folder`."""
    from diffusers import AutoencoderTiny

    from promptlab.rewards import Scorer

    scorer = Scorer(preset, folder)
    vae = AutoencoderTiny.from_pretrained(out / "generator" / "vae").eval()
    records = timing(scorer.gallery.generator) + fidelity_to_truth(scorer.gallery.generator, vae.to(device()))
    judge = scorer.gallery.judge.model
    records += kindness(scorer.gallery.generator, judge) + renders(vae, judge, scorer.rate, scorer.clip)
    return records + drawn(scorer.gallery) + relevance_and_taste(scorer) + taste_on_renders() + taste_on_drawn(scorer.gallery)


def write(out, preset, folder):
    """Measure the world in `out` and write `card.json` and the model card `README.md` beside its weights; arguments as for `measure`."""
    publish(out, measure(out, preset, folder))


def publish(out, records):
    """Write records as `card.json` and as the model card; the size of the world's weights (policies apart) joins them."""
    weights = (
        sum(f.stat().st_size for part in ("generator", "clip", "aesthetic", "judge") for f in (out / part).rglob("*.safetensors")) / 1e6
    )
    records = [*records, record("all weights of the world together, MB", weights, "<= 64")]
    write_atomically(out / "card.json", json.dumps(records, indent=1))
    rows = ["| measured | value | bar | met |", "|---|---|---|---|"]
    for item in records:
        interval = f" ({item['low']:.2f} to {item['high']:.2f})" if "low" in item else ""
        rows.append(
            f"| {item['name']} | {item['value']:.3f}{interval} | {item['bar'] or ''} | {('yes' if meets(item) else '**no**') if item['bar'] else ''} |"
        )
    when = {"date": datetime.date.today(), "hardware": hardware(), "command": COMMAND}
    write_atomically(out / "README.md", CARD.format(subjects=len(SUBJECTS), table="\n".join(rows), blind=named_blind(out), **when))


def named_blind(out) -> str:
    """What people named who saw sheets of `python -m promptlab.pocket sheet` without the key, from `blind.json`: rows of a table."""
    kept = out / "blind.json"
    rows = json.loads(kept.read_text(encoding="utf8")) if kept.exists() else []
    keys = ("date", "reader", "steps", "group", "pictures", "named", "word for word", "judge", "look")
    return "\n".join("| " + " | ".join(str(row[k]) for k in keys) + " |" for row in rows)


CARD = """# The pocket world: model card

A small text-to-image world trained by `python -m promptlab.pocket build`, for learning prompt adaptation offline. It draws
{subjects} nouns (Noto Color Emoji glyphs), alone, in one of six colours, or two side by side, in nine media, seven backgrounds
and nine kinds of light or damage, at 128 x 128. It knows nothing else: other words change a picture in ways nobody intended.

| folder | what | loads with |
|---|---|---|
| `generator` | Stable Diffusion: AutoencoderTiny, CLIPTextModel, UNet2DConditionModel, DPM-Solver++ | `diffusers.StableDiffusionPipeline.from_pretrained(folder)` |
| `clip` | a CLIP with a ResNet and a text transformer | `open_clip.create_model_and_transforms("local-dir:" + folder)` |
| `aesthetic` | a head on CLIP image embeddings, fitted to simulated ratings | `promptlab.rewards.load_aesthetic` |
| `judge` | names subject, colour, medium and background; for evaluation and the gold rating, never in a reward | `promptlab.pocket.judge.load_judge` |
| `language`, `sft`, `ppo` | GPT-2 rewriters: as pretrained on captions, after SFT, after PPO | `transformers.AutoModelForCausalLM.from_pretrained(folder)` |

Licences: weights Apache-2.0, as our code; the glyphs they learned from are Noto Color Emoji (SIL Open Font License 1.1).

## Measured

On seeds that training never saw; the lines "on renders" of autoencoder, judge and aesthetic head on subject x medium pairs that
training never saw together, too. {date}, preset pocket. Hardware: {hardware}.
`{command}` measures everything again; `card.json` holds the same figures.

{table}

## Named by readers

`python -m promptlab.pocket sheet` writes numbered sheets of pictures drawn by chance, and the key apart. Readers who had seen neither key nor a list of
nouns named what they saw. A synonym counts as named ("steam locomotive" for a steam train); the column after it asks for the very words.
Pairs ask for both. Look is 1 (mush) to 5 (clean). "Judge" is how many of the same pictures the judge says are right.

| date | reader | steps | asked for | pictures | named | word for word | judge | look |
|---|---|---|---|---|---|---|---|---|
{blind}
"""
