"""What README and docs show is run: code, configurations, and commands up to their options."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from .test_models.architectures import SEGMENTORS
from .test_models.classifiers import CLASSIFIERS
from .test_models.helpers import build

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')), ROOT / 'configs' / 'README.md']
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```', re.MULTILINE | re.DOTALL)


def blocks(language):
    found = []
    for page in PAGES:
        for index, (kind, text) in enumerate(BLOCK.findall(page.read_text())):
            if kind == language:
                found.append(pytest.param(text, id=f'{page.relative_to(ROOT)}-{index}'))
    return found


def commands():
    for parameter in blocks('bash'):
        (text,) = parameter.values
        for line in text.replace('\\\n', ' ').splitlines():
            if re.match(r'(python|bash) ', line):
                yield pytest.param(line.split('#')[0].strip(), id=line.strip()[:60])


@pytest.mark.parametrize('snippet', blocks('python'))
def test_python_snippets_run(snippet, tmp_path):
    if '_base_' not in snippet:
        exec(compile(snippet, 'snippet', 'exec'), {'__name__': 'snippet'})
        return
    base = re.search(r"_base_ = '(.+?)'", snippet).group(1)
    whole_network = 'PFBTimmClassifier' in snippet
    classifies = whole_network or 'PFBImageClassifier' in snippet
    model, _ = CLASSIFIERS['resnet'] if classifies else SEGMENTORS['deeplabv3-resnet']
    (tmp_path / base).write_text(f'model = {model!r}\ndefault_hooks = {{}}\n')
    child = tmp_path / 'child.py'
    child.write_text(snippet)
    config = Config.fromfile(child)
    built = build(config.model)
    named = re.search(r"location='([\w.]+)'", snippet)
    default = 'backbone.layer1' if classifies else 'backbone.layer3'
    if whole_network:
        default = 'model.layer1'
    assert built.pruning_location == (named.group(1) if named else default)
    from mmpfb.registry import HOOKS

    assert 'pruning' in config.default_hooks
    for hook in config.default_hooks.values():
        HOOKS.build(hook)


@functools.cache
def usage_of(script):
    return subprocess.run(
        [sys.executable, ROOT / script, '--help'], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize('command', commands())
def test_commands_name_files_and_options_that_exist(command):
    words = shlex.split(command)
    script = words[1]
    own = (ROOT / script).is_file()
    assert own or words[1] == '-m', command
    for word in words[2:]:
        if word.startswith('configs/'):
            assert (ROOT / word).is_file(), word
    options = [word.split('=')[0] for word in words if word.startswith('--')]
    if script.endswith('.py') and options:
        usage = usage_of(script)
        for option in options:
            assert option in usage, f'{option} of {command}'


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r'\]\(([^)#]+)\)', page.read_text()):
            if '://' not in target:
                assert (page.parent / target).exists(), f'{target} in {page.name}'


def test_settings_table_names_every_argument_with_its_default():
    import inspect
    from dataclasses import fields

    from mmpfb.engine import PruningScheduleHook
    from mmpfb.models.settings import PruningSettings
    from mmpfb.selectors import PFB

    text = (ROOT / 'README.md').read_text()
    for name in [item.name for item in fields(PruningSettings)]:
        assert f'`{name}`' in text, name
    for name in inspect.signature(PruningScheduleHook).parameters:
        assert f'`{name}`' in text, name
    for name, parameter in inspect.signature(PFB).parameters.items():
        assert f'`{name}={parameter.default!r}`' in text, name
