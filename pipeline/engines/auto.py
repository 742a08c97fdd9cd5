"""Chooses the engine by what is there: vLLM on GPUs where it is installed, else transformers."""

from dataclasses import dataclass

from pipeline.engines.base import Engine, EngineConfig, Setting
from pipeline.engines.transformers import Transformers
from pipeline.engines.vllm import Vllm
from pipeline.models.config import Decoding, Model
from pipeline.support.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Auto(EngineConfig):
    """Configures the choice between vLLM and transformers, which is made when a run is prepared.

    The fingerprint has the engine that was chosen, and an output goes on with it.
    """

    @property
    def settles(self) -> bool:
        """See `EngineConfig.settles`."""
        return True

    def counted(self) -> dict[str, object]:
        """Raise AssertionError: the fingerprint covers the engine that is chosen."""
        raise AssertionError("engine=auto has not been settled")

    def choose(self, decoding: Decoding, setting: Setting) -> tuple[EngineConfig, str]:
        """Return the engine, not yet settled, and in a few words why it is that one."""
        engines: dict[str, EngineConfig] = {"Vllm": Vllm(), "Transformers": Transformers()}
        earlier = engines.get(str(setting.earlier.get("kind")))
        if earlier is not None:
            return earlier, "as in the output so far"
        if not setting.is_on_gpu("auto"):
            return Transformers(), "the run computes on CPUs"
        vllm = Vllm()
        try:
            vllm.check(decoding)
        except ConfigError as error:
            return Transformers(), str(error)
        return vllm, "GPUs and vLLM are there"

    def load(self, model: Model, decoding: Decoding, *, device: str, seed: int) -> Engine:
        """Choose the engine for a device, and load it."""
        engine, _ = self.choose(decoding, Setting(on_gpu=device.partition(":")[0] != "cpu"))
        return engine.load(model, decoding, device=device, seed=seed)
