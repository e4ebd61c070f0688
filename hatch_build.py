"""What hatchling calls while it builds the service's wheel: compile the modules that every message passes.

`SIGNAL_MANAGER_COMPILE` decides: "1" fails without a C compiler, "0" leaves the wheel pure Python. Without it the wheel
is compiled where that is possible. An editable installation is pure Python: `make compiled` compiles a checkout.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tools.compiled import NotCompiledError, build, built_against


class CompiledModules(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's own parameter
    """Put the compiled form of some modules into the wheel, beside the Python that they are made from."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the platform and picows' version in the wheel (`BuildHookInterface.initialize`)."""
        wanted = os.environ.get("SIGNAL_MANAGER_COMPILE")
        if version == "editable" or wanted == "0":
            return
        self._scratch = TemporaryDirectory()
        source = Path(self.root) / "src"
        try:
            built = build(source, Path(self._scratch.name))
        except NotCompiledError as error:
            if wanted == "1":
                raise
            self.app.display_warning(f"signal-manager is built as pure Python: {error}")
            return
        for path in built:
            build_data["force_include"][str(Path(self._scratch.name) / path)] = str(path)
        build_data["pure_python"], build_data["infer_tag"] = False, True
        build_data["dependencies"].append(built_against())

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was built (`BuildHookInterface.finalize`)."""
        if hasattr(self, "_scratch"):
            self._scratch.cleanup()
