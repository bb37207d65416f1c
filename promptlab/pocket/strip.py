"""The README's first picture and its one number: prompts as typed, after SFT and after PPO, on the same seed."""

from promptlab.evaluation import load_results
from promptlab.policy import load_policy
from promptlab.prompts import load_prompts
from promptlab.runtime import PromptlabError

SEED = 500_001  # the first of the seeds that only score
# Test prompts: bare words, a wording SFT never saw, a label with a noun it never saw. The fourth is the failure.
FEATURED = ("a frog", "i am looking for a cupcake", "pink bus")


def failure(scorer, policy):
    """The test prompt that PPO's rewrite serves worst, which the strip must not hide.

    Worst is a picture that has lost a word of the person; of several such, or where there is none, the one that loses most gold.
    """
    plain = [r["x"] for r in load_prompts("test")]

    def rate(texts):
        facts = scorer.gallery.facts(texts, [SEED] * len(texts), progress=True)
        judge = scorer.gallery.judge
        return 10 * judge.kept(facts, plain).astype(float) + judge.gold(facts, plain)  # gold has 9 points from worst to best

    return plain[int((rate(policy.rewrite(plain)) - rate(plain)).argmin())]


def draw(scorer, sft, ppo, path):
    """Write the strip: a column per prompt; rows are the words as typed, SFT's and PPO's rewrite."""
    from textwrap import fill

    import matplotlib.pyplot as plt
    from PIL import Image

    prompts = [*FEATURED, failure(scorer, ppo)]
    rows = {"as typed": prompts, "SFT": sft.rewrite(prompts), "PPO": ppo.rewrite(prompts)}
    figure, axes = plt.subplots(3, len(prompts), figsize=(2.5 * len(prompts), 8.3), layout="constrained")
    for (name, texts), line in zip(rows.items(), axes, strict=True):
        facts = scorer.gallery.facts(texts, [SEED] * len(texts))
        for image, text, fact, ax in zip(scorer.gallery.pictures(texts, [SEED] * len(texts)), texts, facts, line, strict=True):
            ax.imshow(image)
            ax.set_title(f"{fill(text, 34)}\ngold {fact['gold']:.1f}", fontsize=8, parse_math=False)
            ax.set_axis_off()
        line[0].text(-0.04, 0.5, name, transform=line[0].transAxes, rotation=90, ha="right", va="center", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)  # a palette: a third of the size, no visible loss


def number() -> str:
    """The README's number, from the reference run: gold that PPO gains over plain words, out of domain."""
    wanted = {"set": "out_of_domain", "method": "ppo", "versus": "plain", "metric": "gold"}
    found = [r for r in load_results() if all(r[k] == v for k, v in wanted.items())]
    if not found:
        raise PromptlabError("The reference run has no such record yet. Run: python -m promptlab.pocket reference")
    r = found[0]
    return f"gold {r['mean']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}], {r['n']} prompts, {r['seeds']} training seeds"


def write(out):
    """Write `figures/strip.png` beside the world in `out`, and print the README's number."""
    from promptlab.pocket.build import build_folder, preset_for
    from promptlab.rewards import Scorer

    scorer = Scorer(preset_for(out), build_folder() / "cache")
    draw(scorer, load_policy(out / "sft"), load_policy(out / "ppo"), out.parent / "figures" / "strip.png")
    print(number())
