"""`hubel train`: from labelled images to a release, step by step.

prepare -> decode -> train (from scratch, or on a trained backbone) -> study -> release

Each step is a module of its own; this one hands things from one to the next. It knows no
registry: `training.publish` makes a version of the release.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from model.allocator import keep_memory
from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from model.manifest import Architecture
from model.preprocessing import Pixels
from training import transfer
from training.augment import PRESETS, augment
from training.collection import PartName
from training.config import TrainConfig
from training.data import PARTS, Part, channel_statistics, load_part
from training.distributed import Group
from training.errors import InvalidRecipe
from training.job import Job
from training.loop import Trainer
from training.prepare import Prepared, prepare
from training.progress import Display, FollowingObserver, RunObserver
from training.publish import Release
from training.recipes import CLASSIC, check_told, choose_arch, choose_preprocessing, choose_recipe, classic_config
from training.release import make_release
from training.run_folder import RunFolder
from training.study import study
from training.task import Task, Trained

_SAMPLE = 24  # augmented images that the report shows
_HEAD_STRENGTH = 1.0
_HEAD_SETTINGS = ("class_weights", "seed")  # what the last layer of a frozen backbone looks at
_DEPTH_DECAY = 0.8


@dataclass(frozen=True)
class Run:
    """One run of a job in this process; only the one that leads prints, writes and measures."""

    job: Job
    folder: RunFolder
    group: Group
    display: Display

    def release(self, name: str) -> Release | None:
        """Do everything up to the release of a model `name`; None in a process that does not lead.

        Raises:
            TrainingError: as the steps say.
        """
        keep_memory()
        if self.group.leads:
            self._begin()
        prepared = self.group.share(self._prepare())
        assert prepared is not None
        task = self._decode(prepared)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.config.seed)
            trained = self._train(task)
        if not self.group.leads:
            return None
        with self.display.stage("measuring"):
            validation, test = task.parts["validation"], task.parts["test"]
            result = study(trained.network, task.preprocessing, prepared.collection, validation, test)
        return make_release(name, task, trained, result)

    def _begin(self) -> None:
        """Refuse what can be refused before any work, and make the run's folder ready."""
        check_told(self.job.arch, self.job.told)
        if self.job.resume:
            self.folder.check_stopped()
            self.folder.clear_scratch()
            return
        if self.folder.checkpoint.exists():
            self.display.warn(
                f"a stopped run is in {self.folder.path}; --resume would go on with it, this run replaces it"
            )
        self.folder.begin()

    def _prepare(self) -> Prepared | None:
        if not self.group.leads:
            return None
        return prepare(self.job, int(self.job.told.get("seed", TrainConfig.seed)), self.folder, self.display)

    def _decode(self, prepared: Prepared) -> Task:
        job = self.job
        arch = job.arch or choose_arch(prepared.sizes)
        preprocessing = choose_preprocessing(arch, prepared.sizes, bool(prepared.gray.all()), job.size)
        config = choose_recipe(
            arch,
            preprocessing,
            data=prepared.collection.name,
            images=len(prepared.indices["train"]),
            fine_tune=job.fine_tune,
            told=job.told,
        )
        from_scratch = arch == CLASSIC or job.weights == "none"
        self._check_way(from_scratch)
        looping = from_scratch or job.fine_tune > 0
        parts: dict[PartName, Part] = {}
        for name in PARTS if self.group.leads else PARTS[:1]:
            indices = prepared.indices[name]
            with self.display.stage(f"decoding the {name} part", len(indices), "images") as show:
                parts[name] = load_part(
                    prepared.collection,
                    indices,
                    preprocessing,
                    self.folder.scratch,
                    margin=name == "train" and looping and config.augment != "none",
                    on_progress=lambda done: show(done, ""),
                )
        if arch == CLASSIC:
            mean, std = channel_statistics(parts["train"])
            preprocessing = preprocessing.model_copy(update={"mean": mean, "std": std})
        return Task(arch, preprocessing, config, prepared, parts)

    def _check_way(self, from_scratch: bool) -> None:
        """Refuse settings that the way of training would not look at."""
        told, fine_tune = self.job.told, self.job.fine_tune
        if from_scratch:
            if fine_tune:
                raise InvalidRecipe("--fine-tune goes on from trained weights; a network from scratch takes --epochs")
            return
        if fine_tune:
            if "epochs" in told:
                raise InvalidRecipe("--epochs is for training from scratch; --fine-tune says how many epochs it takes")
            return
        if self.job.resume:
            raise InvalidRecipe("--resume goes on with a loop: give the --fine-tune that the stopped run had")
        unused = [f"--{name.replace('_', '-')}" for name in told if name not in _HEAD_SETTINGS]
        if unused:
            raise InvalidRecipe(
                f"{', '.join(unused)}: a frozen backbone gets its last layer without a loop; give --fine-tune EPOCHS "
                "to train all layers, or --weights none to train from scratch"
            )
        if self.group.size > 1:
            raise InvalidRecipe("a frozen backbone is not trained in several processes; give --fine-tune EPOCHS")

    def _train(self, task: Task) -> Trained:
        if task.arch == CLASSIC or self.job.weights == "none":
            return self._from_scratch(task)
        return self._from_backbone(task)

    def _from_scratch(self, task: Task) -> Trained:
        arguments = dict(self.job.arch_config)
        if task.arch == CLASSIC:
            arguments = classic_config(arguments, task.preprocessing, len(task.parts["train"]))
        network = build_network(task.arch, task.classes, arguments)
        return self._run_loop(task, network, Trained(network, Architecture(name=task.arch, config=arguments), {}))

    def _from_backbone(self, task: Task) -> Trained:
        """Solve a new last layer on the backbone's features, then train all layers if that is wanted."""
        arguments = dict(self.job.arch_config)
        backbone = transfer.load_backbone(
            task.arch, task.classes, arguments, self.job.weights, download=self.job.download
        )
        if self.group.leads:
            self._solve_head(task, backbone)
        balanced = task.config.class_weights
        trained = Trained(
            network=backbone.network.cpu().eval(),
            architecture=Architecture(name=task.arch, config=arguments),
            recipe={"last_layer": "logistic regression", "l2": _HEAD_STRENGTH, "class_weights": balanced},
            origin=backbone.origin,
            licence=backbone.licence,
        )
        if not self.job.fine_tune:
            return trained
        backbone.network.load_state_dict(self.group.share(backbone.network.state_dict()))
        rates = transfer.depth_rates(backbone.network, backbone.head, _DEPTH_DECAY)
        return self._run_loop(task, backbone.network, trained, rates)

    def _solve_head(self, task: Task, backbone: transfer.Backbone) -> None:
        train = task.parts["train"]
        self.display.say(f"{task.arch} ({backbone.origin}): features of {len(train):,} images, then a new last layer")
        with self.display.stage("computing features", len(train), "images") as show:
            features = transfer.cached_features(
                backbone,
                train,
                cache=self.folder.cache,
                device=self.group.device,
                on_progress=lambda done: show(done, ""),
            )
        with self.display.stage("solving the last layer"):
            balanced = task.config.class_weights == "balanced"
            weight, bias = transfer.fit_head(features, train.targets, task.classes, _HEAD_STRENGTH, balanced=balanced)
            transfer.set_head(backbone, weight, bias)

    def _run_loop(
        self, task: Task, network: nn.Module, trained: Trained, rates: Mapping[str, float] | None = None
    ) -> Trained:
        """Run the loop from its beginning or from the checkpoint to its end."""
        train, config = task.parts["train"], task.config
        trainer = Trainer(
            PixelNetwork(network, task.preprocessing.mean, task.preprocessing.std),
            config,
            self.group,
            np.bincount(train.targets, minlength=task.classes),
            rates,
        )
        identity: dict[str, object] = {
            "data": task.prepared.fingerprint,
            "order of the images": task.prepared.order,
            "weights": trained.origin,
            "architecture": trained.architecture.model_dump(),
            "preprocessing": task.preprocessing.model_dump(),
            "recipe": {**dataclasses.asdict(config), "precision": trainer.precision},
            "processes": self.group.size,
            "threads": torch.get_num_threads(),
        }
        if self.job.resume:
            trainer.restore(self.group.share(self.folder.load(identity) if self.group.leads else {}))
        if self.group.leads:
            parameters = sum(parameter.numel() for parameter in network.parameters())
            self.folder.note("begin", resumed=self.job.resume, **identity)
            self.display.say(
                f"{task.arch}, {parameters:,} parameters: {len(train):,} images, {trainer.precision} on "
                f"{self.group.device}; stopped, it goes on with --resume"
            )
            observer = RunObserver(self.folder, identity, config, self.display)
            with observer.watching(trainer.steps(train)):
                trainer.run(train, task.parts["validation"], observer)
        else:
            follower = FollowingObserver()
            with follower.watching():
                trainer.run(train, train, follower)
        return dataclasses.replace(
            trained,
            network=_detached(trainer, trained.architecture, task.classes),
            recipe={**trained.recipe, **dataclasses.asdict(config), "precision": trainer.precision},
            history=trainer.history,
            augmented=_augmented_sample(train, config),
        )


def _detached(trainer: Trainer, architecture: Architecture, classes: int) -> nn.Module:
    """Copy the measured network out of the loop, to the CPU."""
    network = build_network(architecture.name, classes, architecture.config)
    weights = trainer.measured.state_dict()
    network.load_state_dict({name: weights[f"network.{name}"].cpu() for name in network.state_dict()})
    return network.eval()


def _augmented_sample(train: Part, config: TrainConfig) -> Pixels | None:
    """Return images as the loop saw them, uint8 (n, H, W, C)."""
    if config.augment == "none":
        return None
    chosen = np.linspace(0, len(train) - 1, min(_SAMPLE, len(train))).astype(int)
    pixels: Pixels = augment(torch.from_numpy(train.frames[chosen]), train.size, PRESETS[config.augment]).numpy()
    return pixels
