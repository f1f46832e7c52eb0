"""Build script: metadata, and the configs and tools that travel inside the package."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'mmpfb'
# What OpenMMLab's command line tools look for in `<package>/.mim`.
MIM_FOLDERS = ('configs', 'tools')


class BuildPyWithMim(build_py):
    """`build_py` that also provides `mmpfb/.mim` with the configs and tools.

    A wheel gets copies, written to the build folder only. An editable install gets links beside
    the sources, so that an edited config is seen at once.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            self._link()
        else:
            # A build folder outlives a renamed config.
            shutil.rmtree(Path(self.build_lib) / PACKAGE / '.mim', ignore_errors=True)
            for source, target in self._mim_files().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: int = 1) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        if self.editable_mode:
            return outputs
        return outputs + [str(target) for target in self._mim_files().values()]

    def get_source_files(self) -> list[str]:
        """List the files for the source distribution, from which a wheel must come out alike."""
        return super().get_source_files() + [
            str(source.relative_to(ROOT)) for source in self._mim_files()
        ]

    def _mim_files(self) -> dict[Path, Path]:
        target = Path(self.build_lib) / PACKAGE / '.mim'
        return {
            source: target / source.relative_to(ROOT)
            for folder in MIM_FOLDERS
            for source in sorted((ROOT / folder).rglob('*'))
            if source.is_file() and source.suffix != '.pyc'
        }

    def _link(self) -> None:
        mim = ROOT / PACKAGE / '.mim'
        mim.mkdir(exist_ok=True)
        for folder in MIM_FOLDERS:
            link = mim / folder
            if link.is_symlink():
                link.unlink()
            elif link.exists():
                shutil.rmtree(link)
            try:
                link.symlink_to(Path('..', '..', folder), target_is_directory=True)
            except OSError:
                # Windows allows links only to privileged users.
                shutil.copytree(ROOT / folder, link)


def read_version() -> str:
    text = (ROOT / PACKAGE / 'version.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f'Expected {PACKAGE}/version.py to define __version__.')
    return match[1]


def read_readme() -> str:
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


setup(
    name=PACKAGE,
    version=read_version(),
    description='Partial Forward Blocking: train MMSegmentation models on fewer images per batch',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords=['semantic segmentation', 'data pruning', 'efficient training', 'OpenMMLab'],
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed']},
    include_package_data=False,
    python_requires='>=3.10',
    install_requires=['torch>=2.0'],
    # The maintained forks and upstream install into the same import names, so neither may be a
    # hard requirement: pip would put one over the other.
    extras_require={
        'onedl': [
            'onedl-mmengine>=0.10.12',
            'onedl-mmcv>=2.3.6',
            'onedl-mmsegmentation>=1.4.2',
            'torchvision',
            'ftfy',
            'regex',
        ],
        'onedl-mmpretrain': [
            'onedl-mmengine>=0.10.12',
            'onedl-mmcv>=2.3.6',
            'onedl-mmpretrain>=1.3.6',
            'torchvision',
        ],
        'openmmlab': [
            'mmengine>=0.10.7,<1.0.0',
            'mmcv>=2.0.0rc4,<2.2.0',
            'mmsegmentation>=1.2.2',
            'ftfy',
            'regex',
            # MMEngine 0.10 imports pkg_resources, which setuptools 82 removed.
            'setuptools<82',
        ],
        'openmmlab-mmpretrain': [
            'mmengine>=0.10.7,<1.0.0',
            'mmcv>=2.0.0rc4,<2.2.0',
            'mmpretrain>=1.2.0',
            'torchvision',
            'setuptools<82',
        ],
        'dev': [
            'hypothesis',
            'mypy',
            'pytest>=7.0',
            'pytest-timeout',
            'pytest-xdist',
            'ruff',
            'scipy',
            'setuptools>=64',
            'timm',
            'transformers',
            'wheel',
        ],
    },
    cmdclass={'build_py': BuildPyWithMim},
    zip_safe=False,
)
