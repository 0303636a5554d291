"""Which versions exist, in the order of their registration and in that of their names; and each model's policy.

It owns the specs and the policies. Nothing here reads a disk (`repository.py` does), loads, or moves traffic.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Container

from changeover.core.policy import ModelPolicy, order_key
from changeover.core.values import VersionKey, VersionSpec
from changeover.errors import AlreadyRegistered, ModelNotRegistered


class Registry:
    """The registered versions, in order of their registration; changed on the loop, read from any thread."""

    def __init__(self) -> None:
        """Begin empty."""
        self._specs: dict[str, dict[str, VersionSpec]] = {}
        self._oldest_first: dict[str, list[str]] = {}
        self._newest_first: dict[str, tuple[str, ...]] = {}
        self.left: frozenset[VersionKey] = frozenset()
        """Those that were removed; replaced whole, never changed."""
        self._by_file: dict[str, ModelPolicy] = {}
        self._by_hand: dict[str, ModelPolicy] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many versions are registered."""
        return self._count

    def __contains__(self, key: VersionKey) -> bool:
        """Return whether a version is registered."""
        return key.version in self._specs.get(key.model, {})

    # --- versions ---

    def add(self, spec: VersionSpec) -> None:
        """Register a version; raises `AlreadyRegistered`."""
        if spec.key in self:
            raise AlreadyRegistered(
                f"{spec.key} is registered already, from {str(self.get(spec.key).source)!r}; "
                "a version never changes its meaning, so register the new file under a new version",
                model=spec.model, version=spec.version,
            )  # fmt: skip
        self._specs.setdefault(spec.model, {})[spec.version] = spec
        insort(self._oldest_first.setdefault(spec.model, []), spec.version, key=order_key)
        self._newest_first.pop(spec.model, None)
        self.left = self.left - {spec.key}
        self._count += 1

    def remove(self, key: VersionKey) -> None:
        """Forget a version; nothing happens where it is not registered."""
        if key in self:
            del self._specs[key.model][key.version]
            self._oldest_first[key.model].remove(key.version)
            self._newest_first.pop(key.model, None)
            self.left = self.left | {key}
            self._count -= 1
            if not self._specs[key.model]:
                del self._specs[key.model], self._oldest_first[key.model]

    def get(self, key: VersionKey) -> VersionSpec:
        """Return the spec of a version; raises `ModelNotRegistered`, naming what there is."""
        versions = self.versions(key.model)
        if key.version not in versions:
            known = ", ".join(sorted(versions))
            text = f"{key.model} has no version {key.version!r}; registered are {known}"
            raise ModelNotRegistered(text, model=key.model, version=key.version)
        return self._specs[key.model][key.version]

    def versions(self, model: str) -> tuple[str, ...]:
        """Return the versions of a model; raises `ModelNotRegistered` where there are none."""
        if model not in self._specs:
            known = ", ".join(sorted(self._specs)[:10]) or "none"
            raise ModelNotRegistered(
                f"no model is called {model!r}; registered are {known}. Use engine.register(...), or put it into the "
                "repository folder as NAME/VERSION/ and call engine.scan()",
                model=model,
            )
        return tuple(self._specs[model])

    def known(self, model: str) -> Container[str]:
        """Return the versions of a model to look a version up in, from any thread; empty where there are none."""
        return self._specs.get(model, {})

    def versions_newest_first(self, model: str) -> tuple[str, ...]:
        """Return the versions of a model by `order_key`, the newest first; empty where there are none."""
        found = self._newest_first.get(model)
        if found is None:
            found = self._newest_first[model] = tuple(reversed(self._oldest_first.get(model, ())))
        return found

    # --- policies ---

    def policy(self, model: str) -> ModelPolicy | None:
        """Return the policy that is in force: the one set by hand, else the one of the model's file, else None."""
        return self._by_hand.get(model) or self._by_file.get(model)

    def set_policy(self, model: str, policy: ModelPolicy | None) -> None:
        """Set a policy by hand, or take that back."""
        if policy is None:
            self._by_hand.pop(model, None)
        else:
            self._by_hand[model] = policy

    def keep_policy(self, model: str, policy: ModelPolicy) -> bool:
        """Take a policy from the model's file; return whether another one is in force than before."""
        before = self.policy(model)
        self._by_file[model] = policy
        return self.policy(model) != before
