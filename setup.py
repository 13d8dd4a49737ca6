"All that is said of the package stands in settings.ini; this hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read('settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
extras = {name: cfg[f'{name}_requirements'].split() for name in ('images', 'fast', 'hf', 'sql', 'ray', 'study', 'adapters', 'dev')}
extras['adapters'] = extras['study']+extras['adapters']
extras['dev'] = sum((extras[name] for name in ('images', 'fast', 'hf', 'sql', 'ray', 'adapters', 'dev')), [])

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], author=cfg['author'], author_email=cfg['author_email'],
    url=cfg['git_url'], license='Apache-2.0', keywords=cfg['keywords'], python_requires='>='+cfg['min_python'],
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=['avh_nb', 'avh_nb.*']), package_data={'avh_nb.report': ['*.html']}, zip_safe=False,
    install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['avh_nb=avh_nb._modidx:d']},
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence'],
)
