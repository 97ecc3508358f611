"""No file of bert_jax runs what it reads: the rules of source_rules.py over every Python file, and proof that each rule sees what it is for."""

import re
from pathlib import Path

import pytest

from tests.security.source_rules import findings

ROOT = Path(__file__).parents[2]
ROOMS = ("bert_jax", "data_pipeline", "configs", "launch", "benchmarks", "tests")
# (file, rule) -> why it may. One that is not needed any more has to go.
EXCEPTIONS = {
    ("launch/config.py", "runs a file"): "a config is code, given as a local path by the person who runs it",
    ("benchmarks/comparison.py", "imports by a computed name"): "its own other files, by a name out of a fixed list",
    ("tests/data_pipeline/sources/test_corpus.py", "pickle"): "its own object, pickled in the same line: what travels between processes",
    ("tests/data_pipeline/sources/test_corpus_remote.py", "pickle"): "the same",
    ("tests/data_pipeline/sources/test_corpus_tfds.py", "pickle"): "the same",
    ("tests/interop/test_huggingface.py", "eval"): "compiles, and does not run, the snippet of a model card",
    ("tests/interop/test_task_directories.py", "eval"): "runs the code on a card that it made itself",
    ("tests/training/test_loss_parity.py", "runs a file"): "the benchmark that it tests",
    ("tests/security/test_foreign_weights.py", "pickle"): "makes the payloads that must not be opened",
    ("tests/security/test_foreign_data.py", "pickle"): "the same",
}

CAUGHT = {
    "pickle": [
        "import pickle", "import pickle as p\np.loads(b'')", "from pickle import loads", "import dill", "from dill import load", "import shelve", "import marshal", "import joblib",
        "from joblib import load", "import cloudpickle", "__import__('pickle').loads(b'')", "import importlib\nimportlib.import_module('marshal')",
        "import pandas as pd\npd.read_pickle('x')", "import torch\ntorch.hub.load('a/b', 'c')", "def f():\n    import _pickle",
    ],
    "eval": ["eval('1')", "exec('x = 1')", "compile('1', '', 'eval')", "import builtins\nbuiltins.eval('1')", "from builtins import exec as run\nrun('1')", "map(eval, lines)"],
    "runs a file": [
        "import runpy\nrunpy.run_path('x')", "spec.loader.exec_module(module)", "from importlib.machinery import SourceFileLoader as Loader\nLoader('x', 'y')", "loader.load_module('x')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)", "AutoModel.from_pretrained('x', trust_remote_code=trusted)",
    ],
    "allow_pickle": [
        "import numpy as np\nnp.load('x', allow_pickle=True)", "import numpy\nnumpy.load('x', None, True)", "from numpy import load\nload('x', **settings)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)", "import numpy as np\nnp.lib.format.read_array(file, allow_pickle=True)", "from numpy import load as read\nread(*words)",
        "import numpy as np\nnp.save('x', y, allow_pickle=True)",
    ],
    "shell": [
        "import subprocess\nsubprocess.run(['ls'], shell=True)", "import subprocess as s\ns.Popen(words, shell=flag)", "import os\nos.system('ls')", "import os\nos.popen('ls')",
        "from os import system\nsystem('ls')", "from subprocess import getoutput\ngetoutput('ls')", "import asyncio\nasyncio.create_subprocess_shell('ls')", "import pty\npty.spawn('sh')",
        "import subprocess\nsubprocess.run(['bash', '-c', f'rm {name}'])", "import subprocess\nsubprocess.run(['ssh', host, 'sh', '-c', 'rm ' + name])",
    ],
    "yaml": [
        "import yaml\nyaml.load(text)", "import yaml\nyaml.load(text, Loader=yaml.Loader)", "import yaml\nyaml.load(text, yaml.UnsafeLoader)", "from yaml import load\nload(text)",
        "import yaml\nyaml.full_load(text)", "import yaml\nyaml.unsafe_load(text)", "from yaml import unsafe_load_all as read\nread(text)",
    ],
    "torch.load": [
        "import torch\ntorch.load('x')", "import torch\ntorch.load('x', weights_only=False)", "from torch import load as read\nread('x', weights_only=flag)", "import torch\ntorch.load('x', **settings)",
    ],
    "mktemp": ["import tempfile\ntempfile.mktemp()", "from tempfile import mktemp as name\nname()"],
    "extractall": ["import tarfile\ntarfile.open('x').extractall()", "archive.extractall(path)", "import shutil\nshutil.unpack_archive('x.zip')"],
    "subprocess without a list": [
        "import subprocess\nsubprocess.run('ls')", "import subprocess\nsubprocess.run(f'ls {x}')", "from subprocess import check_output\ncheck_output('ls ' + x)",
        "import subprocess\nsubprocess.Popen(' '.join(words))", "import subprocess\nsubprocess.call(args='ls {}'.format(x))", "import subprocess\nsubprocess.run(**settings)",
    ],
    "imports by a computed name": ["__import__(name)", "import importlib\nimportlib.import_module(f'x.{name}')", "from importlib import import_module as load\nload(name)"],
    "unescaped HTML": [
        "import jinja2\njinja2.Environment(loader=loader)", "from jinja2 import Environment\nEnvironment(autoescape=False)", "import jinja2\njinja2.Template('{{ x }}')",
        "from markupsafe import Markup\nMarkup(text)",
    ],
}
LET_THROUGH = """
import re, ast, subprocess, tempfile, os
import numpy as np, torch, yaml, jinja2, pickletools
from re import compile as pattern
re.compile("x"); pattern("x"); ast.literal_eval("1"); model.eval(); step.lower().compile()
np.load("x", mmap_mode="r", allow_pickle=False); np.load("x"); np.save("x", y, allow_pickle=False)
torch.load("x", map_location="cpu", weights_only=True)
subprocess.run(["ls", name]); subprocess.run(command, shell=False); subprocess.Popen([*words, "x"]); subprocess.run(["bash", "-c", script])
yaml.safe_load(text); yaml.load(text, Loader=yaml.SafeLoader)
tempfile.mkdtemp(); tempfile.NamedTemporaryFile(); factory.mktemp("x")
os.execve(words[0], words, variables)
jinja2.Environment(loader=loader, autoescape=True)
"""


def sources() -> list[Path]:
    return [*(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))), *sorted(ROOT.glob("*.py"))]


def test_no_file_runs_what_it_reads():
    found = {}
    for path in sources():
        for line, rule in findings(path.read_text(encoding="utf-8")):
            found.setdefault((path.relative_to(ROOT).as_posix(), rule), []).append(line)
    assert len(sources()) > 200
    assert {place: lines for place, lines in found.items() if place not in EXCEPTIONS} == {}
    assert {place for place in EXCEPTIONS if (ROOT / place[0]).exists()} <= set(found), "an exception that nothing needs"
    assert len(found["launch/config.py", "runs a file"]) == 1, "one place runs configs"


@pytest.mark.parametrize("rule", CAUGHT)
def test_each_rule_sees_what_it_is_for(rule):
    for source in CAUGHT[rule]:
        assert rule in {name for _, name in findings(source)}, source


def test_what_is_harmless_is_let_through():
    assert findings(LET_THROUGH) == []


def test_templates_escape_and_load_nothing():
    templates = sorted((ROOT / "launch").rglob("*.html.j2"))
    assert len(templates) >= 2
    for template in templates:
        text = template.read_text(encoding="utf-8")
        for unsafe in ("|safe", "| safe", "autoescape", "xmlattr", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "javascript:", "=" + "{{"):
            assert unsafe not in text, f"{template.name} has {unsafe}"
        base = re.search(r'{% extends "([^"]+)" %}', text)
        assert "default-src 'none'" in (text if base is None else template.with_name(base[1]).read_text(encoding="utf-8"))
