"""The rewriter: a causal language model that reads ``x Rephrase:`` and writes a rewrite, sampled and scored exactly.

What PPO learns from are the sampled token ids themselves. They are never decoded and tokenised again, and they are
drawn from the very distribution that is scored: no top-k, no minimum length, no beam (Hao et al. 2022 explore with a
diverse beam; huggingface/trl documents the "negative KL" that such settings bring).
"""

import logging
import zlib
from functools import cached_property
from pathlib import Path

from promptlab.config import Preset, preset
from promptlab.decoding import check, continued, diverse_beam, ranked, scored
from promptlab.models.language import load_language
from promptlab.models.sources import local, package_file
from promptlab.models.weights import whole_folder
from promptlab.processes import every, first, join
from promptlab.prompts import clean_prompt
from promptlab.rewrites import Rewrites, cache_name, has_adapters, log_probs, merged
from promptlab.rewrites import choices as choices  # as are these, so that who works with a policy finds here what reads its rewrites
from promptlab.rewrites import chosen as chosen
from promptlab.rewrites import entropy as entropy
from promptlab.rewrites import inputs as inputs
from promptlab.rewrites import with_adapters as with_adapters
from promptlab.runtime import PromptlabError, bar, device, home
from promptlab.sharding import on as sharded
from promptlab.sharding import reading

MARK = " Rephrase:"  # Promptist's format: x + MARK + y + end token


class Policy:
    """A causal language model with its tokenizer; dropout is off for good, so that scoring twice gives the same number."""

    def __init__(self, model, tokenizer):
        join()
        self.model, self.tokenizer = model.to(device()).eval(), tokenizer
        self.end = tokenizer.eos_token_id
        if self.end is None:
            raise PromptlabError(f"The tokenizer {tokenizer.name_or_path!r} has no end token, so a rewrite could never end.")
        self.model.generation_config = self.settings()  # saved with the model: elsewhere, too, it has to know when to stop

    def settings(self, **chosen):
        """Settings of transformers' `generate`: how a text ends, and those given, and nothing else.

        A folder's generation_config.json may hold a top-k, a penalty, forced tokens and thirty things more, and transformers
        takes from there whatever a call leaves open.
        """
        from transformers import GenerationConfig

        return GenerationConfig(eos_token_id=self.end, pad_token_id=self.end, **chosen)

    @cached_property
    def room(self):
        """How many tokens the model can read and write together; some (BLOOM, Mamba) name no limit, then it is the tokenizer's, at most 2048."""
        config = self.model.config.get_text_config()
        told = [getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "seq_length")]
        return next((n for n in told if isinstance(n, int) and n > 0), min(self.tokenizer.model_max_length, 2048))

    @cached_property
    def rows(self):
        """How many tokens the model knows; a tokenizer may have a few more, such as a padding token that somebody added."""
        return self.model.get_input_embeddings().weight.shape[0]

    @cached_property
    def opening(self):
        """The token ids that the tokenizer puts before every text, such as a begin token: training sees them, so asking has them too."""
        whole, plain = self.tokenizer.encode("a"), self.tokenizer.encode("a", add_special_tokens=False)
        return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain), [])

    def ids_of(self, text, after=""):
        """The token ids of a text where it continues another one: some tokenizers begin every text with a space."""
        before, whole = (self.tokenizer.encode(t, add_special_tokens=False) for t in (after, after + text))
        ids = whole[len(before) :] if whole[: len(before)] == before else self.tokenizer.encode(text, add_special_tokens=False)
        return [i for i in ids if i < self.rows]

    def encode(self, prompts, most):
        """Prompts with their mark as ids (n, length), padded on the left, and a bool mask; at most `most` tokens each.

        What exceeds the limit is cut from the end of x, never the mark. Raises `PromptlabError` for an empty prompt.
        """
        import torch

        mark = self.ids_of(MARK, after="a")
        left = most - len(self.opening) - len(mark)
        if left <= 0:
            raise PromptlabError(
                f"The model reads {self.room} tokens in all, which leaves {most} for the prompt. Ask for fewer new tokens, at most {self.room // 2}."
            )
        texts = [self.opening + self.ids_of(clean_prompt(p))[:left] + mark for p in prompts]
        width = max(map(len, texts))
        ids = torch.tensor([[self.end] * (width - len(t)) + t for t in texts])
        real = torch.tensor([[False] * (width - len(t)) + [True] * len(t) for t in texts])
        return ids.to(device()), real.to(device())

    def sample(self, prompts, seed=0, new_tokens=48, greedy=False, rows=slice(None)) -> Rewrites:
        """One rewrite per prompt: sampled from the model's own distribution, or its likeliest tokens if `greedy`.

        The same seed gives the same rewrites on the same machine. At most `new_tokens` tokens each. Of many prompts, those in `rows`
        alone can be rewritten: as they would be among all, so that processes may share the work.
        """
        import torch

        ids, real = (all_rows[rows] for all_rows in self.encode(prompts, self.room - new_tokens))
        # Not torch's own random state: all threads share that one, so a cell that draws would change a run in the background.
        choose = likeliest if greedy else draw(torch.Generator(ids.device).manual_seed(seed), len(prompts), rows)
        with reading():
            if cache_name(self.model) and not sharded():
                found = continued(self.model, ids, real, self.end, new_tokens, choose)
            else:
                found = self.generate(ids, real, [only(choose)], max_new_tokens=new_tokens)[:, ids.shape[1] :]
        return self.as_rewrites(ids, real, found.clone(), list(prompts)[rows])  # out of inference mode, so that training may use them

    def as_rewrites(self, ids, real, found, prompts) -> Rewrites:
        """Prompts as `encode` returns them, and the tokens found behind each, (n, length), as rewrites of these prompts."""
        import torch

        # Padding is the end token too, so what is real follows from counting: everything up to the first end token.
        ends = (found == self.end).cumsum(1)
        chosen = (ends == 0) | ((ends == 1) & (found == self.end))
        texts = self.texts_of([row[keep] for row, keep in zip(found, chosen, strict=True)], prompts)
        return Rewrites(torch.cat([ids, found], 1), torch.cat([real, chosen], 1), ids.shape[1], texts, ends[:, -1] > 0)

    def generate(self, ids, real, drawing=(), **settings):
        """Ask transformers to go on, with these settings alone: ids (n, length) and a bool mask in, longer ids out.

        It takes the likeliest token each time, after what the functions in `drawing` have made of the scores.
        """
        from transformers import LogitsProcessorList

        logging.getLogger("transformers.modeling_utils").addFilter(not_about_padding)
        self.model.generation_config = self.settings()  # whatever somebody has set there by hand
        more = {"logits_processor": LogitsProcessorList(drawing), "synced_gpus": sharded()}
        return self.model.generate(ids, attention_mask=real.long(), generation_config=self.settings(**settings), **more)

    def encode_rewrites(self, prompts, rewrites) -> Rewrites:
        """Given rewrites as tokens behind their prompts, end token included: what somebody else wrote, ready to be scored."""
        import torch

        tails = [self.ids_of(t, after=MARK) + [self.end] for t in rewrites]
        width = max(map(len, tails))
        ids, real = self.encode(prompts, self.room - width)
        tail = torch.tensor([t + [self.end] * (width - len(t)) for t in tails], device=ids.device)
        chosen = torch.tensor([[True] * len(t) + [False] * (width - len(t)) for t in tails], device=ids.device)
        done = torch.ones(len(tails), dtype=torch.bool)
        return Rewrites(torch.cat([ids, tail], 1), torch.cat([real, chosen], 1), ids.shape[1], [t.strip() for t in rewrites], done)

    def rewrite(
        self, prompts, n=1, decode="greedy", *, seed=0, score=None, new_tokens=48, num_beams=8, num_beam_groups=4, diversity_penalty=1.0,
        length_penalty=1.0, batch=64, progress=False,
    ) -> list:  # fmt: skip
        """The policy's rewrite of each prompt as a string; with `n` > 1 a list of n strings for each, the best first.

        `decode` says how they are found and which is best: "greedy" takes the likeliest token each time (n = 1). "sample" draws n
        from the model's own distribution, the likeliest of them first. "best_of_n" draws n and orders them by `score(plain, written)`,
        which gets two lists of strings and returns one number for each rewrite. "beam" keeps `num_beams` beginnings and ranks by
        log-probability / length ** length_penalty; "diverse_beam" does so in groups that avoid each other (`decoding.diverse_beam`).
        `batch` rewrites or beams are in work at once; with it, `seed` fixes what is drawn. Raises `PromptlabError` for settings that
        do not go together.
        """

        check(decode, n, score, num_beams, num_beam_groups)
        beams, written = decode in ("beam", "diverse_beam"), []
        step = max(1, batch // (num_beams if beams else n))
        for i in bar(range(0, len(prompts), step), desc="rewriting", disable=not progress):
            some = prompts[i : i + step]
            wanted = [p for p in some for _ in range(n)]
            if beams:
                ids, real = self.encode(some, self.room - new_tokens)
                with reading():
                    if decode == "beam":
                        found = self.generate(ids, real, do_sample=False, num_beams=num_beams, num_return_sequences=n, max_new_tokens=new_tokens, length_penalty=length_penalty)[:, ids.shape[1] :]  # fmt: skip
                    else:
                        found = diverse_beam(self.model, ids, real, self.end, new_tokens, num_beams, num_beam_groups, diversity_penalty, length_penalty)[0][:, :n].flatten(0, 1)  # fmt: skip
                written += self.texts_of(found, wanted)
            else:
                drawn = self.sample(wanted, seed + 1_000_003 * i, new_tokens, greedy=decode == "greedy")  # other noise in every batch
                written += ranked(drawn.texts, self.likelihoods(drawn), n) if decode == "sample" and n > 1 else drawn.texts
        if decode == "best_of_n":
            written = ranked(written, scored(score, [p for p in prompts for _ in range(n)], written), n)
        return written if n == 1 else [written[i : i + n] for i in range(0, len(written), n)]

    def texts_of(self, rows, prompts) -> list[str]:
        """What rows of new tokens say in words, each the prompt itself where that is nothing."""
        words = [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
        return [rewrite_or_prompt(w, p) for w, p in zip(words, prompts, strict=True)]

    def likelihoods(self, rewrites) -> list[float]:
        """The log-probability of each rewrite as a whole, in nats."""
        import torch

        with reading():  # a few at a time: the scores of a large vocabulary fill the memory
            parts = [rewrites.rows(some) for some in torch.arange(len(rewrites)).split(16)]
            return [v for r in parts for v in (log_probs(self.model, r)[0] * r.mask).sum(1).tolist()]

    def save(self, folder, half=False):
        """Write a plain transformers folder: weights as safetensors (fp16 if `half`), adapters added in, and the tokenizer.

        A kill or a full disk leaves an earlier policy there intact. Of several processes, the first writes. Raises `PromptlabError` where it
        cannot be written.
        """
        import copy

        if first():
            model = merged(copy.deepcopy(self.model)) if half or has_adapters(self.model) else self.model
            with whole_folder(folder) as partial:
                (model.half() if half else model).save_pretrained(partial)
                self.tokenizer.save_pretrained(partial)
        every(None)  # nobody reads it before it is whole


def not_about_padding(record) -> bool:
    """Drops a warning of transformers: where no prompt is padded it drops the mask we gave, and misses it once a rewrite has ended."""
    return not record.getMessage().startswith("We strongly recommend passing in an `attention_mask`")


def likeliest(scores, rows):
    """The likeliest next token of every row."""
    return scores.argmax(-1)


def draw(generator, whole, mine=slice(None)):
    """A function that draws the next token of some rows from the model's own distribution, given their scores.

    The token with the largest p / e, where e is exponential noise, is drawn with probability p: so `torch.multinomial` draws, too. Noise is
    made for all of a batch of `whole`, and `mine` are what this process has of it: the same is drawn whoever else shares the work.
    """
    import torch

    def drawn(scores, rows):
        noise = torch.empty(whole, scores.shape[1], dtype=scores.dtype, device=scores.device).exponential_(generator=generator)
        return (scores.softmax(-1) / noise[mine][rows]).argmax(-1)

    return drawn


def only(choose):
    """The same choice as a step of transformers' `generate`, which takes the likeliest: all other scores become minus infinity."""
    import torch

    return lambda ids, scores: torch.full_like(scores, -torch.inf).scatter(1, choose(scores, slice(None))[:, None], 0.0)


def rewrite_or_prompt(words, prompt) -> str:
    """What a model wrote, or the prompt itself where that is nothing to draw: empty, or control characters alone."""
    try:
        clean_prompt(words)
    except PromptlabError:
        return clean_prompt(prompt)
    return words


PROMPTIST = "microsoft/Promptist"  # what the paper's authors published: GPT-2 after SFT and PPO, for Stable Diffusion v1-4


class Promptist(Policy):
    """The published Promptist, which reads our very format, with the decoding its authors ask for: beam search for short likely rewrites.

    Eight beams, 75 new tokens, length penalty -1, the best one kept (README of microsoft/LMOps, promptist). `sample` stays
    what it is for every policy, so PPO can start from it.
    """

    def rewrite(self, prompts, n=1, decode="beam", *, new_tokens=75, length_penalty=-1.0, batch=128, **settings) -> list:
        """As `Policy.rewrite`, with the authors' decoding unless told otherwise."""
        return super().rewrite(prompts, n, decode, new_tokens=new_tokens, length_penalty=length_penalty, batch=batch, **settings)


def load_policy(source) -> Policy:
    """The policy of a transformers folder, a hub id, or a pip package with a GGUF file; `Promptist` where it is that.

    Raises `PromptlabError` where it is missing, damaged, no causal language model, or does not fit its tokenizer.
    """
    return (Promptist if source == PROMPTIST else Policy)(*load_language(source))


def own_policy(stage, chosen: Preset | None = None) -> Path:
    """Where a reader's own policy of a stage, "sft" or "ppo", is kept: a folder of the run folder."""
    return home() / (chosen or preset()).name / stage / "policy"


def run_folder(stage, policy: Policy, inputs) -> Path:
    """A folder for one training of a stage: the same start and inputs (by their `repr`) go on in it, others never do."""
    import torch

    mark = zlib.crc32(repr(inputs).encode())
    for name, weights in policy.model.state_dict().items():  # all of them: adapters never touch the first ones
        numbers = weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        mark = zlib.crc32(numbers, zlib.crc32(name.encode(), mark))
    return home() / preset().name / stage / f"run-{mark:08x}"


def stage_policy(stage, chosen: Preset | None = None, shipped=False) -> Policy:
    """The policy of a stage, "language", "sft" or "ppo": your own where you trained one, else (or first, if `shipped`) the one the preset names.

    Prints in one line which of them it is. Raises `PromptlabError` as `load_policy` does, and where the preset names none.
    """
    join()
    chosen = chosen or preset()
    own, given = own_policy(stage, chosen), getattr(chosen, stage)
    whole = (own / "config.json").exists() and any(own.glob("*.safetensors"))
    if whole and not (shipped and given):
        print(f"{stage} policy: your own, {own}")
        try:
            return load_policy(own)
        except PromptlabError as error:
            raise PromptlabError(f"{error} Or delete {own}, and you have what others have who trained none.") from error
    if own.exists() and not whole:
        print(f"{own} is passed over: it holds no weights, as a save that broke off leaves it. Train it again, or delete it.")
    if not given:
        lesson = {"sft": "01_sft", "ppo": "03_ppo"}[stage]
        raise PromptlabError(
            f"The preset {chosen.name!r} comes without a policy after {stage}, and {own} holds none of yours. Train one in {lesson}."
        )
    folder = None if package_file(given) else local(given)
    if folder is not None:
        print(f"{stage} policy: the shipped one, {folder}")
    elif stage == "language":
        print(f"{stage} policy: {given}, pretrained by others")
    else:
        print(
            f"{stage} policy: none of your own yet, so {given} stands in, trained by others (after SFT and PPO, for Stable Diffusion v1-4)"
        )
    return load_policy(folder or given)
