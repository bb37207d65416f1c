"""A contact sheet: all pictures of some rewrites, with the scores, gold ratings and embeddings that lessons sort and plot."""

from functools import cached_property

from promptlab.runtime import PromptlabError

# What 02_rewards compares: two prompts of each kind of thing, half of them with a colour, and endings chosen by a rule
# that peeks at no score: every medium with every place.
PLAIN = ["a turtle", "a pink octopus", "a fox", "a blue frog", "a cactus", "a purple tulip", "a pizza", "a green cupcake",
         "a castle", "a red church", "a rocket", "a yellow bus", "a guitar", "a pink teddy bear"]  # fmt: skip
MEDIA = ["photo", "3d render", "watercolor", "oil painting", "neon sign", "silhouette"]
PLACES = ["studio light", "at sunset", "in the forest", "in the ocean"]
ENDINGS = [f"{medium}, {place}" for medium in MEDIA for place in PLACES]


def cross(scorer, plain, endings, seeds):
    """Every plain prompt with every ending, as one contact sheet: prompts outermost, seeds innermost."""
    return ContactSheet(scorer, [x for x in plain for _ in endings], [f"{x}, {e}" for x in plain for e in endings], seeds)


class ContactSheet:
    """All pictures of some rewrites with everything known about them: lists and tensors with one row per picture, as in `Scores`."""

    def __init__(self, scorer, plain, rewritten, seeds, progress=True):
        self.scorer, self.scores = scorer, scorer.score(plain, rewritten, seeds, progress)
        self.plain = [p for p in plain for _ in seeds]  # what the person typed
        self.prompts = [p for p in rewritten for _ in seeds]  # what was drawn
        self.seeds = list(seeds) * len(plain)

    def __len__(self):
        return len(self.prompts)

    @cached_property
    def facts(self):
        """What the referee keeps of each picture; on pocket dicts of gold, subjects, colour, medium, background."""
        return self.scorer.gallery.facts(self.prompts, self.seeds)

    def ask(self, what):
        """Put one question, "gold" or "kept", to the referee about every picture and the words typed for it."""
        import torch

        judge = self.scorer.gallery.judge
        if not judge:
            raise PromptlabError(
                f"The preset {self.scorer.gallery.preset.name!r} has no judge, so there is no gold. Let its field judge name one, such as PickScore."
            )
        return torch.from_numpy(getattr(judge, what)(self.facts, self.plain))

    @cached_property
    def gold(self):
        """The gold rating of each picture: 1-10 on pocket, PickScore where Stable Diffusion draws."""
        return self.ask("gold").float()

    @cached_property
    def kept(self):
        """Whether the referee finds what the person typed: on pocket subject, colour, both of a pair; else the words rather than 99 others."""
        return self.ask("kept")

    def similarity(self, texts):
        """CLIP's cosine between each picture and a text: one string for all pictures, or one text per picture."""
        import torch

        texts = [texts] * len(self) if isinstance(texts, str) else list(texts)
        looks = self.scorer.gallery.embeddings(self.prompts, self.seeds)
        return torch.from_numpy((looks * self.scorer.texts(texts)).sum(1))

    def top(self, values, count=16):
        """The rows with the highest values, best first, as a list."""
        return values.argsort(descending=True, stable=True)[:count].tolist()

    def pictures(self, rows):
        """Pictures of some rows as uint8 (n, height, width, 3)."""
        return self.scorer.gallery.pictures([self.prompts[i] for i in rows], [self.seeds[i] for i in rows])

    def collage(self, rows, columns=4):
        """Pictures of some rows as one array, best first from the top left; the last line is filled up with white."""
        import numpy as np

        tiles = self.pictures(rows)
        tiles = np.concatenate([tiles, np.full((-len(rows) % columns, *tiles.shape[1:]), 255, np.uint8)])
        return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])

    def scatter(self, ax, x, y, count=34, zoom=0.28):
        """Put `count` pictures on matplotlib axes at their (x, y); a dashed frame where the judge misses a word.

        The first is the highest; each next one is the farthest from those chosen, so that few overlap. Returns their rows.
        """
        import torch
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

        at, rows = torch.stack([x / x.std(), y / y.std()], 1), self.top(y, 1)
        while len(rows) < min(count, len(self)):
            rows.append(int(torch.cdist(at, at[rows]).min(1).values.argmax()))
        for i, picture in zip(rows, self.pictures(rows), strict=True):
            frame = {"fc": "none", "lw": 0} if self.kept[i] else {"fc": "none", "lw": 1.5, "ls": "--"}
            ax.add_artist(AnnotationBbox(OffsetImage(picture, zoom=zoom), (float(x[i]), float(y[i])), pad=0.1, bboxprops=frame))
        return rows

    def thumbnails(self, rows):
        """Pictures of some rows as PNG bytes."""
        return self.scorer.gallery.thumbnails([self.prompts[i] for i in rows], [self.seeds[i] for i in rows])
