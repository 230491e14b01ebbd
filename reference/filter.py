"""Write `goldens/models/tiny-checked/` and `goldens/filter.safetensors`: the safety checker, from diffusers.

The model has a tiny random `StableDiffusionSafetyChecker` in `safety_checker/` and a `CLIPImageProcessor` in
`feature_extractor/`; all else is that of `tiny-sd15`. Its concepts are directions between the embeddings of the
pictures below and of others, and its thresholds lie so that each picture of the case meets another lot of them: none,
special ones alone, others alone, and one that only the lowered bar lets in.

For the n-th picture: `<n>.picture` [H, W, 3], bytes; `<n>.special` [3] and `<n>.concepts` [17], the scores. Case: for
each picture whether the checker objects to it.
"""

import json
import shutil

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance
from PIL import Image
from transformers import CLIPConfig

import golden
import models
import vision

SIZES = [(16, 16), (40, 28), (9, 13), (24, 24), (33, 47), (20, 20)]


def checker():
    config = CLIPConfig(vision_config=vision.config().to_dict(), projection_dim=24)
    model = models.randomise(StableDiffusionSafetyChecker(config), 31).float().eval()
    for name in ("concept_embeds", "special_care_embeds"):
        embeds = getattr(model, name)
        embeds.data = torch.randn(embeds.shape, generator=golden.generator(len(name)))
    return model


def scores(model, pixels):
    """What the class computes and then throws away but for the decision."""
    seen = model.visual_projection(model.vision_model(pixels)[1])
    special = cosine_distance(seen, model.special_care_embeds).numpy()[0]
    concepts = cosine_distance(seen, model.concept_embeds).numpy()[0]
    adjustment, special_scores = 0.0, []
    for cosine, threshold in zip(special, model.special_care_embeds_weights):
        special_scores.append(round(cosine - threshold.item() + adjustment, 3))
        adjustment = 0.01 if special_scores[-1] > 0 else adjustment
    concept_scores = [
        round(cosine - threshold.item() + adjustment, 3)
        for cosine, threshold in zip(concepts, model.concept_embeds_weights)
    ]
    return torch.tensor(special_scores), torch.tensor(concept_scores), torch.tensor(concepts)


def main():
    golden.hold_still()
    target = golden.MODELS / "tiny-checked"
    shutil.rmtree(target, ignore_errors=True)
    model, processor = checker(), vision.processor()
    pictures = [vision.picture(height, width, 50 + index) for index, (height, width) in enumerate(SIZES)]
    pixels = [processor(images=Image.fromarray(shown.numpy()), return_tensors="pt").pixel_values for shown in pictures]

    # Nothing is met at 2, which no cosine reaches.
    for name in ("special_care_embeds_weights", "concept_embeds_weights"):
        getattr(model, name).data.fill_(2.0)
    seen = torch.cat([model.visual_projection(model.vision_model(each)[1]) for each in pixels])

    def direction(index):
        """At right angles to the embeddings of all pictures but one."""
        return torch.linalg.pinv(seen)[:, index]

    def meet(kind, slot, index, margin):
        towards = direction(index)
        getattr(model, f"{kind}_embeds").data[slot] = towards / towards.norm()
        cosines = cosine_distance(seen, getattr(model, f"{kind}_embeds"))[:, slot]
        rest = torch.cat([cosines[:index], cosines[index + 1 :]])
        assert cosines[index] - abs(margin) > rest.max() + 0.02, (kind, slot, cosines)
        getattr(model, f"{kind}_embeds_weights").data[slot] = cosines[index] - margin

    meet("special_care", 1, 1, 0.03)  # picture 1: special alone
    meet("concept", 4, 2, 0.03)  # picture 2: another alone
    meet("special_care", 0, 3, 0.03)  # picture 3: special, and another by the lowered bar
    meet("concept", 7, 3, -0.006)
    meet("concept", 9, 4, -0.006)  # picture 4: nearly, but the bar is not lowered
    meet("concept", 16, 5, 0.05)  # picture 5: another, the last one
    model.half().save_pretrained(target / "safety_checker")
    processor.save_pretrained(target / "feature_extractor")
    index = json.loads((golden.MODELS / "tiny-sd15" / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    models.write_index(target, index)

    model = model.float()
    tensors, case = {}, []
    for index, (shown, each) in enumerate(zip(pictures, pixels)):
        special, concepts, _ = scores(model, each)
        _, (objects,) = model(each, [torch.zeros(1)])
        assert objects == bool((concepts > 0).any())
        tensors |= {f"{index}.picture": shown.float(), f"{index}.special": special, f"{index}.concepts": concepts}
        case.append(bool(objects))
    assert case == [False, False, True, True, False, True], case
    golden.write("filter", tensors, case)


if __name__ == "__main__":
    main()
