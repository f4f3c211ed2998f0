"""Contrastive self-supervised learning in JAX: trains and evaluates encoders on unlabelled images.

Names are imported when they are first used, so that importing the package starts no device.
"""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names
from cssl_jax.version import __version__

if TYPE_CHECKING:
    from cssl_jax.augment.image.policy import ImagePolicy
    from cssl_jax.config import Config
    from cssl_jax.errors import InterruptedRunError, RunError, UserError
    from cssl_jax.evaluate.encoders.load import load_encoder
    from cssl_jax.evaluate.results import Results
    from cssl_jax.evaluate.run import evaluate_run
    from cssl_jax.experiment.example_sets import check_data, split_data
    from cssl_jax.experiment.input_profile import bench_input
    from cssl_jax.export.exported import export_run
    from cssl_jax.modalities.audio_files import check_audio, split_audio
    from cssl_jax.modalities.series_files import check_series, split_series
    from cssl_jax.modalities.text_files import check_texts, split_texts
    from cssl_jax.planning.planner import plan
    from cssl_jax.planning.scaling import plan_scaling
    from cssl_jax.planning.targets.target_plan import plan_target
    from cssl_jax.recipes import describe as describe_recipe
    from cssl_jax.recipes import diff as diff_recipes
    from cssl_jax.recipes import load as load_recipe
    from cssl_jax.recipes import recipe_names
    from cssl_jax.registries import trusting_code
    from cssl_jax.report.figures.plots import draw as draw_plot
    from cssl_jax.report.views import draw_views, load_views
    from cssl_jax.report.write import write_report
    from cssl_jax.runtime.doctor import check_installation
    from cssl_jax.selfcheck.run import selfcheck as run_selfcheck
    from cssl_jax.sweeps.sweep import sweep
    from cssl_jax.sweeps.sweep_report import write_report as write_sweep_report
    from cssl_jax.train.imported_run import import_weights
    from cssl_jax.train.pretrain import pretrain
    from cssl_jax.train.zoo_verification import verify_zoo
    from cssl_jax.transfer.adapt.run import adapt
    from cssl_jax.transfer.finetune import finetune, finetune_config
    from cssl_jax.transfer.transfer_report import write_transfer_report
    from cssl_jax.zoo.zoo_index import open_zoo

__all__ = [
    "Config",
    "ImagePolicy",
    "InterruptedRunError",
    "Results",
    "RunError",
    "UserError",
    "__version__",
    "adapt",
    "bench_input",
    "check_audio",
    "check_data",
    "check_installation",
    "check_series",
    "check_texts",
    "describe_recipe",
    "diff_recipes",
    "draw_plot",
    "draw_views",
    "evaluate_run",
    "export_run",
    "finetune",
    "finetune_config",
    "import_weights",
    "load_encoder",
    "load_recipe",
    "load_views",
    "open_zoo",
    "plan",
    "plan_scaling",
    "plan_target",
    "pretrain",
    "recipe_names",
    "run_selfcheck",
    "split_audio",
    "split_data",
    "split_series",
    "split_texts",
    "sweep",
    "trusting_code",
    "verify_zoo",
    "write_report",
    "write_sweep_report",
    "write_transfer_report",
]
__getattr__, __dir__ = public_names(__name__)
