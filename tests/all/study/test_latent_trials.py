import torch
from diffusers import AutoencoderKL

from helpers import assert_same_state
from kan_diffusion import train
from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.randomness import stream_seed
from kan_diffusion.study.measure import load_run
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.trial import build, run_trial, told, without_text
from picture_folders import write_pictures
from picture_networks import autoencoder, change

TINY = {"hidden": (8, 8), "settings": {"width": 8, "heads": 2, "patch": 2}}


def test_a_trial_is_trained_on_latents_as_by_hand(tmp_path):
    pictures, place = write_pictures(tmp_path / "pictures", "captions"), tmp_path / "vae"
    autoencoder().save_pretrained(place)
    settings = {"steps": 4, "batch_size": 8, "size": 8, "mode": "RGB", "vae": place}
    trial = single_trial(str(pictures), family="dit-kan", **settings)
    changes = {
        "model": trial.model.model_copy(update={"params": None, **TINY}),
        "sampling": trial.sampling.model_copy(update={"steps": 3}),
        "evaluation": trial.evaluation.model_copy(update={"moments": (), "effort": "quick"}),
    }
    config = trial.model_copy(update=changes)
    run = run_trial(config, tmp_path / "run", device="cpu")
    assert (run.row["oracle"], run.row["excess"]) == ("none", None)
    dataset = load_dataset(config.data, config.study_seed, config.seed)
    vae = AutoencoderKL.from_pretrained(place).eval()
    with torch.no_grad():
        latents = 0.4 * (vae.encode(dataset.train).latent_dist.mode() - 0.3)
    by_hand, untrained = build(config, dataset), build(config, dataset)
    train(
        *(by_hand, config.process, latents, config.training),
        seed=stream_seed("training", config.study_seed, config.seed, config.data.name),
        conditions=told(by_hand, dataset),
        device="cpu",
    )
    _, pipeline = load_run(run.folder)
    x, prompts = latents[:4], torch.ones(4, 1, by_hand.denoiser.text_width)
    with torch.no_grad():
        one, same, before = (
            each(x, 500, encoder_hidden_states=prompts).sample
            for each in (pipeline.denoiser, without_text(by_hand), without_text(untrained))
        )
    assert change(same, one) < 0.01 * change(before, one)
    assert_same_state(pipeline.vae, vae)
