"""What runs on several processes: objective, its fields, micro-batches."""

CASES = {
    "plain": ("plain", {}, 1),
    "plain_accumulated": ("plain", {}, 2),
    "loss_second_moment": ("plain", {"times": "loss_second_moment"}, 2),
    "smoothing_random": ("smoothing_random", {"fraction": 0.5}, 1),
    "smoothing_adversarial": ("smoothing_adversarial", {}, 2),
    "invariance": ("invariance", {}, 1),
    "detail": ("detail", {}, 1),
    "detail_accumulated": ("detail", {"noise": None, "window": 3.0}, 2),
    "detail_auto": ("detail", {"noise": "auto", "start_step": 4}, 2),  # reads the last two steps
    "dro": ("dro", {}, 1),
    "dro_accumulated": ("dro", {}, 2),
    "dro_pgd": ("dro_pgd", {}, 1),
    "consistency": ("consistency_training", {"n_passes": 3, "perturbed": "target"}, 1),
    "adt": ("adt", {}, 1),
    "adt_accumulated": ("adt", {"input_grad": True, "warmup_batches": 1}, 2),
    "distillation": ("consistency_distillation", {"n_passes": 3}, 2),
}
"""Three updates, gradient by gradient, on 1 and 2 processes."""

LONG = {
    "plain": ("plain", {}, 1),
    "smoothing_adversarial": ("smoothing_adversarial", {"fraction": 0.5}, 1),
    "detail": ("detail", {}, 1),
    "dro": ("dro", {}, 1),
    "consistency_training": ("consistency_training", {"n_passes": 3, "perturbed": "target"}, 1),
    "consistency_distillation": ("consistency_distillation", {"n_passes": 3}, 2),
    "adt": ("adt", {"discriminator_steps": 2}, 1),
}
"""Twenty updates: weights, averages, moments and logs, on 1, 2 and 4 processes, sharded or not."""

SHARDED = ("smoothing_adversarial", "consistency_distillation", "adt")
"""Those of LONG that are sharded too: an attack, an average and a teacher that are called and
several micro-batches, two players."""
