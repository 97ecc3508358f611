"""What no Python file of bert_jax may do, found in its syntax tree. Enters: source text. Leaves: findings, as (line, rule).

Names are followed through imports, so that `from torch import load as read` is still torch.load. What is computed at run time (getattr of a
string that was put together) is not seen: the rules are there against slips, not against malice in our own code.
"""

import ast
from collections.abc import Iterator

# Modules whose reading runs code. Whoever needs one has to be listed as an exception.
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
RUNS_TEXT = {"eval", "exec", "compile", "builtins.eval", "builtins.exec", "builtins.compile"}
RUNS_FILES = {"runpy.run_path", "runpy.run_module", "imp.load_source", "importlib.machinery.SourceFileLoader", "importlib.machinery.SourcelessFileLoader", "code.interact"}
SHELLS = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "pty.spawn", "commands.getoutput",
}
SUBPROCESS = {f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")}
READS_PICKLES = {"pandas.read_pickle", "torch.hub.load", "torch.package.PackageImporter", "sklearn.externals.joblib"}
SAFE_YAML = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def findings(source: str) -> list[tuple[int, str]]:
    """(line, rule) of everything that a file does and may not."""
    tree = ast.parse(source)
    origins = _origins(tree)
    return sorted(set(found for node in ast.walk(tree) for found in _of_node(node, origins)))


def _origins(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it was imported as, such as np -> numpy, read -> torch.load."""
    origins = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            origins |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return origins


def _name(node: ast.AST, origins: dict[str, str]) -> str:
    """The dotted name that an expression stands for; "" for anything else."""
    if isinstance(node, ast.Name):
        return origins.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = _name(node.value, origins)
        return f"{owner}.{node.attr}" if owner else f"?.{node.attr}"
    return ""


def _of_node(node: ast.AST, origins: dict[str, str]) -> Iterator[tuple[int, str]]:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    if any(module.split(".")[0] in UNPICKLERS for module in modules):
        yield node.lineno, "pickle"
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        name = _name(node, origins)
        if name in RUNS_TEXT:
            yield node.lineno, "eval"
        if name in RUNS_FILES or name.endswith(".exec_module") or name.endswith(".load_module"):
            yield node.lineno, "runs a file"
        if name in SHELLS or name.startswith("os.spawn"):
            yield node.lineno, "shell"
        if name in READS_PICKLES:
            yield node.lineno, "pickle"
        if name == "tempfile.mktemp":
            yield node.lineno, "mktemp"
        if name.endswith(".extractall") or name == "shutil.unpack_archive":
            yield node.lineno, "extractall"
        if name.startswith("yaml.") and "load" in name and name not in ("yaml.safe_load", "yaml.safe_load_all", "yaml.load"):
            yield node.lineno, "yaml"
        if name in ("markupsafe.Markup", "jinja2.Markup"):
            yield node.lineno, "unescaped HTML"
    if isinstance(node, ast.Call):
        yield from ((node.lineno, rule) for rule in _of_call(node, _name(node.func, origins), origins))


def _of_call(call: ast.Call, name: str, origins: dict[str, str]) -> Iterator[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    hidden = None in keywords  # **settings: nobody sees what is in it
    if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
        yield "allow_pickle"
    if name == "numpy.load" and (hidden or len(call.args) > 2 or any(isinstance(one, ast.Starred) for one in call.args)):
        yield "allow_pickle"
    if "trust_remote_code" in keywords and not _is(keywords["trust_remote_code"], False):
        yield "runs a file"
    if "shell" in keywords and not _is(keywords["shell"], False):
        yield "shell"
    if name in SUBPROCESS:
        command = call.args[0] if call.args else keywords.get("args")
        if command is None or _is_text(command):
            yield "subprocess without a list"
        if isinstance(command, ast.List) and _interpolates_into_shell(command):
            yield "shell"
    if name == "torch.load" and not _is(keywords.get("weights_only"), True):
        yield "torch.load"
    if name == "yaml.load" and _name(keywords.get("Loader", ast.Constant(None)), origins) not in SAFE_YAML:
        yield "yaml"
    if name in ("__import__", "importlib.import_module"):
        module = call.args[0] if call.args else None
        if not isinstance(module, ast.Constant):
            yield "imports by a computed name"
        elif str(module.value).split(".")[0] in UNPICKLERS:
            yield "pickle"
    if name == "jinja2.Environment" and not _is(keywords.get("autoescape"), True) or name == "jinja2.Template":
        yield "unescaped HTML"


def _is(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is type(value) and node.value == value


def _is_text(node: ast.AST) -> bool:
    """Whether an expression is a string, rather than a list or something unknown."""
    if isinstance(node, ast.Constant | ast.JoinedStr):
        return True
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "format")


def _interpolates_into_shell(command: ast.List) -> bool:
    """[..., "sh", "-c", f"... {value}"]: a value pasted into a script."""
    words = command.elts
    shells = [index for index, word in enumerate(words[:-2]) if isinstance(word, ast.Constant) and str(word.value).split("/")[-1] in ("sh", "bash", "zsh", "dash")]
    return any(_is(words[index + 1], "-c") and isinstance(words[index + 2], ast.JoinedStr | ast.BinOp) for index in shells)
