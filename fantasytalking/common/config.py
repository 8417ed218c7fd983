"""Loads configurations: YAML over typed dataclasses, with overrides from the command line, validated once."""

import copy
import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from fantasytalking.common.config_aliases import RENAMED_KEYS, rename_old_keys
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.limits import MAX_NESTING
from fantasytalking.common.resources import ROOT, resource_path
from fantasytalking.common.text_files import check_yaml, read_yaml_text

CONFIGS_FOLDER = ROOT / "configs"
"""The folder of presets."""

INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*(\$\{.{0,60})", re.DOTALL)
"""An interpolation of OmegaConf. None is resolved: some read environment variables, which records would then contain.
A backslash before it makes it plain text."""

ConfigT = TypeVar("ConfigT")


def load_config(schema: type[ConfigT], path: str | Path | None, overrides: Sequence[str] = ()) -> ConfigT:
    """The dataclass `schema`, filled from its defaults, then the YAML at `path`, then `key.sub=value` overrides.

    `path` may be one of the package's own, such as configs/nano/infer.yaml (see `resource_path`).

    A dataclass that has a `validate()` method has it called, innermost first.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown (with the nearest known one), a value has the
            wrong type, is an interpolation or is missing, or `validate` raised.
    """
    merged = _defaults(schema)
    if path is not None:
        merged = _merge(schema, merged, _read_yaml(resource_path(path)), str(path))
    return _finalize(schema, merged, overrides, str(path or "config"))


def config_from_dict(schema: type[ConfigT], values: dict[str, Any], source: str) -> ConfigT:
    """Returns the dataclass `schema` filled from plain `values`; `source` names them in messages.

    Interpolations such as `${...}` in `values` are not resolved.

    Raises:
        InputError: as `load_config`.
    """
    try:
        update = OmegaConf.create(_escape_interpolations(values))
    except OmegaConfBaseException as error:
        raise InputError(
            f"{source}: {str(error).splitlines()[0]}", code=ErrorCode.invalid_type, field=source
        ) from error
    return _finalize(schema, _merge(schema, _defaults(schema), update, source), (), source)


def _defaults(schema: type) -> DictConfig:
    """Returns the configuration of a dataclass's defaults, to be changed in place."""
    return copy.deepcopy(_structured(schema))


@cache
def _structured(schema: type) -> DictConfig:
    # Takes longer than all other steps of loading.
    structured: DictConfig = OmegaConf.structured(schema)
    return structured


@cache
def _type_hints(schema: Hashable) -> dict[str, Any]:
    return get_type_hints(schema)


def _finalize(schema: type[ConfigT], merged: Any, overrides: Sequence[str], source: str) -> ConfigT:
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise InputError(
                f"override '{override}' is not of the form key=value, as in steps=30",
                code=ErrorCode.invalid_type,
                field="override",
                value=override,
            )
    merged = _merge_overrides(schema, merged, overrides)
    try:
        config = OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        missing = sorted(str(key) for key in OmegaConf.missing_keys(merged))
        raise InputError(
            f"{source}: no value for {', '.join(missing)}; set it in the file or as {missing[0]}=...",
            code=ErrorCode.missing_value,
            field=missing[0],
        ) from error
    except OmegaConfBaseException as error:
        raise InputError(
            f"{source} at '{error.full_key}': {str(error).splitlines()[0]}",
            code=ErrorCode.invalid_type,
            field=str(error.full_key),
        ) from error
    _validate(config)
    return config  # type: ignore[return-value]


def save_config(config: Any, path: str | Path) -> None:
    """Writes the dataclass `config` as YAML, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(config_to_yaml(config), encoding="utf-8")


def config_to_yaml(config: Any) -> str:
    """Returns the dataclass `config` as YAML for `load_config`; text that looks like an interpolation is escaped."""
    return str(OmegaConf.to_yaml(OmegaConf.create(_escape_interpolations(asdict(config)))))


def presets_with(name: str) -> list[str]:
    """Returns the presets that have a configs/PRESET/`name`.yaml, in alphabetical order."""
    return sorted(path.parent.name for path in CONFIGS_FOLDER.glob(f"*/{name}.yaml"))


def preset_path(preset: str, name: str) -> Path:
    """Returns the path of configs/`preset`/`name`.yaml.

    Raises:
        InputError: there is none; names the presets that exist.
    """
    path = CONFIGS_FOLDER / preset / f"{name}.yaml"
    if not path.is_file():
        known = presets_with(name)
        raise InputError(
            f"there is no preset '{preset}' with a {name}.yaml;{did_you_mean(preset, known)} known: {', '.join(known)}",
            code=ErrorCode.invalid_choice,
            field="model",
            value=preset,
        )
    return path


def did_you_mean(word: str, known: Sequence[str], renamed: Mapping[str, str] = MappingProxyType({})) -> str:
    """Returns " did you mean 'X'?" if one of `known` is similar to `word`, otherwise "".

    Args:
        renamed: new name by old name; a word similar to an old name suggests the new one.
    """
    near = difflib.get_close_matches(word, [*known, *renamed], n=1)
    return f" did you mean '{renamed.get(near[0], near[0])}'?" if near else ""


def _escape_interpolations(value: Any) -> Any:
    """Escapes OmegaConf's interpolations in the strings of `value` (backslashes before one are doubled)."""
    if isinstance(value, dict):
        return {key: _escape_interpolations(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape_interpolations(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _read_yaml(path: Path) -> DictConfig:
    text = read_yaml_text(path, "config")
    try:
        loaded = OmegaConf.load(StringIO(text))
    except (YAMLError, ValueError, OmegaConfBaseException) as error:
        raise InputError(
            f"config '{path}' is not valid YAML: {error}",
            code=ErrorCode.malformed_file,
            field="config",
            value=str(path),
        ) from error
    if not isinstance(loaded, DictConfig):
        raise InputError(
            f"config '{path}' holds a {type(loaded).__name__}; it must hold keys and values",
            code=ErrorCode.malformed_file,
            field="config",
            value=str(path),
        )
    return loaded


def _parse_override(override: str) -> DictConfig:
    key, _, value = override.partition("=")
    try:
        if key.count(".") > MAX_NESTING:
            raise ValueError(f"the key is nested more than {MAX_NESTING} deep")
        check_yaml(value)
        return OmegaConf.from_dotlist([override])
    except (YAMLError, ValueError, OmegaConfBaseException) as error:
        raise InputError(
            f"override '{override[:80]}': {error}; write it as key=value, as in steps=30",
            code=ErrorCode.invalid_type,
            field="override",
            value=override,
        ) from error


def _merge_overrides(schema: type, merged: Any, overrides: Sequence[str]) -> Any:
    """Merges all overrides at once, which OmegaConf takes as long for as for one; the later of two counts."""
    together: dict[Any, Any] = {}
    checked = []
    for override in overrides:
        source = f"override '{override}'"
        values = _check_keys(schema, _parse_override(override), source)
        checked.append((values, source))
        _update_nested(together, values)
    try:
        return _merge_values(merged, together, "override")
    except InputError:
        for values, source in checked:  # names the override
            _merge_values(merged, values, source)
        raise


def _update_nested(values: dict[Any, Any], update: Mapping[Any, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _update_nested(values[key], value)
        else:
            values[key] = copy.deepcopy(value)


def _merge(schema: type, merged: Any, update: DictConfig, source: str) -> Any:
    return _merge_values(merged, _check_keys(schema, update, source), source)


def _check_keys(schema: type, update: DictConfig, source: str) -> dict[Any, Any]:
    values: dict[Any, Any] = rename_old_keys(schema, OmegaConf.to_container(update), source)
    _reject_interpolations(values, "", source)
    _reject_unknown_keys(schema, values, "", source)
    return values


def _merge_values(merged: Any, values: dict[Any, Any], source: str) -> Any:
    """Merges `values` into `merged`, in place: OmegaConf.merge copies the whole configuration."""
    try:
        merged.merge_with(OmegaConf.create(values))
    except (OmegaConfBaseException, TypeError) as error:  # a mapping in place of a list is a TypeError
        key = getattr(error, "full_key", None)
        where = f" at '{key}'" if key else ""
        raise InputError(
            f"{source}{where}: {str(error).splitlines()[0]}",
            code=ErrorCode.invalid_type,
            field=str(key or source),
        ) from error
    return merged


def _reject_interpolations(value: Any, key: str, source: str) -> None:
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _reject_interpolations(item, f"{key}.{name}".lstrip("."), source)
    elif isinstance(value, str) and (found := INTERPOLATION.search(value)):
        raise InputError(
            f"{source}: {key} contains {found[1]!r}; interpolations are not resolved: write the value itself, or "
            "\\${ for plain text",
            code=ErrorCode.unsupported,
            field=key,
            value=value,
        )


def _reject_unknown_keys(schema: Any, update: Any, prefix: str, source: str) -> None:
    if type(None) in get_args(schema):  # an optional section
        if update is None:
            return
        schema = next((kind for kind in get_args(schema) if is_dataclass(kind)), schema)
    if not is_dataclass(schema):
        return
    if not isinstance(update, dict):
        raise InputError(
            f"{source}: '{prefix.rstrip('.')}' is {update!r}; it holds keys and values",
            code=ErrorCode.invalid_type,
            field=prefix.rstrip("."),
            value=update,
        )
    hints = _type_hints(cast(Hashable, schema))
    known, renamed = (
        [field.name for field in fields(schema)],
        RENAMED_KEYS.get(str(getattr(schema, "__name__", "")), {}),
    )
    for key, value in update.items():
        if key not in known:
            raise InputError(
                f"{source}: unknown key '{prefix}{key}';{did_you_mean(str(key), known, renamed)} "
                f"known here: {', '.join(known)}",
                code=ErrorCode.unknown_key,
                field=f"{prefix}{key}",
                value=key,
            )
        _reject_unknown_keys(hints[key], value, f"{prefix}{key}.", source)


def _validate(config: Any) -> None:
    if isinstance(config, list):
        for entry in config:
            _validate(entry)
    if not is_dataclass(config):
        return
    for field in fields(config):
        _validate(getattr(config, field.name))
    check = getattr(config, "validate", None)
    if check is not None:
        check()
