"""PickScore, as the example of another scorer: a CLIP that was trained on what people picked (Kirstain et al. 2023).

A scorer is anything that looks at pictures and leaves a column of numbers beside the others; a reward then uses it:

    eye = PickScore()
    picked = pick_scores(scorer, eye, plain, rewritten, seeds)
    rewards = mean_per_pair(promptist_reward(scores, scorer.calibration) + 0.1 * picked, scores)

To be remembered by a gallery it needs a `fingerprint` and `embed_images`, nothing else.
"""

import numpy as np

from promptlab.models.sources import fetch, language_files, repair_for, tokenizer_files
from promptlab.models.weights import file_hash, reading_weights
from promptlab.prompts import clean_prompt
from promptlab.runtime import PromptlabError, hardware

PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # the published weights come without a tokenizer: it is OpenCLIP's


class PickScore:
    """The model and what prepares pictures and words for it; half precision on a GPU, as it is large (986 million weights).

    Args: `source`, `processor` folders or hub ids; without a `processor` what lies in the folder of `source`, else the published one.
    Raises `PromptlabError` where one is missing or holds another model.
    """

    def __init__(self, source="yuvalkirstain/PickScore_v1", processor=""):
        from transformers import CLIPModel, CLIPProcessor

        self.folder, where = fetch(source, language_files), hardware()
        own = (self.folder / "preprocessor_config.json").exists()
        prepare = self.folder if own and not processor else fetch(processor or PROCESSOR, tokenizer_files)
        # A short hash of the weights, part of every cache key: of what is loaded here, not of what lies there later.
        self.fingerprint = file_hash(sorted(self.folder.glob("*.safetensors")))
        with reading_weights(
            self.folder, repair_for(self.folder, "source").replace("dataclasses.replace(preset(), source=...)", "PickScore(source=...)")
        ):
            self.model, found = CLIPModel.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, dtype=where.dtype, output_loading_info=True
            )
            self.processor = CLIPProcessor.from_pretrained(prepare, local_files_only=True)
        if found["missing_keys"]:
            raise PromptlabError(
                f"{self.folder} lacks weights of PickScore, such as {min(found['missing_keys'])!r}. Is it another kind of model?"
            )
        self.model.eval().to(where.device)

    def embed_images(self, images):
        """Pictures uint8 (n, height, width, 3) to float32 (n, width of the embedding), of length 1."""
        pixels = self.processor.image_processor(list(images), return_tensors="pt").pixel_values
        return self._embed(lambda m: m.visual_projection(m.vision_model(pixels.to(m.device, m.dtype)).pooler_output))

    def embed_texts(self, texts):
        """Texts to float32 (n, width of the embedding), of length 1; what exceeds 77 tokens is ignored."""
        words = self.processor.tokenizer(list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt").to(
            self.model.device
        )
        return self._embed(lambda m: m.text_projection(m.text_model(**words).pooler_output))

    def _embed(self, look):
        import torch

        with torch.inference_mode():
            return torch.nn.functional.normalize(look(self.model).float(), dim=-1).cpu().numpy()

    @property
    def scale(self) -> float:
        """What the model multiplies its cosines by, about 100."""
        return float(self.model.logit_scale.detach().float().exp())


def pick_scores(scorer, eye, plain, rewritten, seeds):
    """How well people would like each picture of a rewrite for the words that were typed: float tensor, a row per picture as in `Scores`.

    The pictures are drawn again the first time, as the cache keeps what CLIP saw of them and not the pictures themselves.
    """
    import torch

    looks = scorer.gallery.seen_by(eye).embeddings([y for y in rewritten for _ in seeds], list(seeds) * len(rewritten))
    words = np.repeat(eye.embed_texts([clean_prompt(p) for p in plain]), len(seeds), axis=0)
    return torch.from_numpy(eye.scale * (looks * words).sum(1))
