"""A chat template comes with a checkpoint and is not trusted: the published escapes, and templates without end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data_room.test_data import CHAT, word_tokenizer
from tlora_ref.data import Row, Tokenizer, chat_template, encode_rows
from tlora_ref.errors import DataError

HI = [{"role": "user", "content": "one"}]

#: More of them, one a line.
MORE = r"""# the same names spelt otherwise: escapes, joined letters, formats, reversed
{{ ''['\x5f\x5fclass\x5f\x5f']['\x5f\x5fbase\x5f\x5f'] }}
{{ '' | attr('\u005f\u005fclass\u005f\u005f') | attr('\u005f\u005fmro\u005f\u005f') }}
{{ '' | attr(['_' * 2, 'class', '_' * 2] | join) | attr(['_' * 2, 'base', '_' * 2] | join) }}
{{ '' | attr('%c%cclass%c%c' | format(95, 95, 95, 95)) }}
{{ '' | attr('__ssalc__' | reverse) }}
{{ ''['__ssalc__'[::-1]] }}
{% set u = (lipsum | string)[20] %}{{ '' | attr(u ~ u ~ 'class' ~ u ~ u) }}
{{ '' | attr('__class__\x00') }}
{{ ''.__ｃlass__ }}
# filters that look up names in values
{{ messages[0]['__class__']['__init__'] }}
{{ [''] | map('attr', '__class__') | list }}
{{ [''] | map('attr', '__class__') | map('attr', '__mro__') | map('last') | list }}
{{ [''] | map(attribute='__class__', default='') | list }}
{{ [['', 1]] | map(attribute='0.__class__') | list }}
{{ [''] | rejectattr('__class__.__mro__') | list }}
{{ [{'a': ''}] | groupby('a.__class__') }}
{{ messages | sum(attribute='role.__class__', start='') }}
{{ messages | min(attribute='__class__') }}
{{ messages | max(attribute='role.__class__') }}
# str.format again: on a string that is escaped, kept in any kind of value, handed on by a filter
{{ ('{0.__class__}' | safe).format('') }}
{{ ('{0.__class__}' | escape).format('') }}
{{ ('{0.__class__}' | safe | attr('format'))('') }}
{{ ('{a.__class__}' | safe | attr('format_map'))({'a': ''}) }}
{% set ns = namespace(f='{0.__class__}'.format) %}{{ ns.f('') }}
{% set d = {'f': '{0.__class__}'.format} %}{{ d.f('') }}
{% set d = {'f': '{0.__class__}'.format} %}{{ d.get('f')('') }}
{{ dict(f='{0.__class__}'.format)['f']('') }}
{{ cycler('{0.__class__}'.format).next()('') }}
{{ ['{0.__class__}'.format][0]('') }}
{{ (['{0.__class__}'.format] | first)('') }}
{{ ['{0.__class__}'.format] | map('attr', '__self__') | list }}
{{ '{0.__class__}'.format.__self__ }}
{% for f in ['{0.__class__.__mro__}'.format] %}{{ f(messages) }}{% endfor %}
{% macro m() %}{{ caller('{0.__class__}'.format) }}{% endmacro %}{% call(f) m() %}{{ f('') }}{% endcall %}
{{ '{0[0].__class__}'.format(messages) }}
{{ '{0[0][__class__]}'.format(messages) }}
{{ '{:{0.__class__}}'.format(1) }}
{{ '{0!r:{1.__class__}}'.format(1, '') }}
# what a template has at hand: its loop, macros, itself, a block, a namespace, an undefined name, what it is given
{% for x in [1] %}{{ loop.__class__ }}{% endfor %}
{% for x in [1] %}{{ loop._iterator }}{% endfor %}
{% for x in [1] %}{{ loop | attr('_iterable') }}{% endfor %}
{% for x in [1] recursive %}{{ loop.__call__.__globals__ }}{% endfor %}
{% for x in [1] recursive %}{{ loop._recurse.__globals__ }}{% endfor %}
{% macro m() %}{{ varargs.__class__ }}{% endmacro %}{{ m(1, 2) }}
{% macro m() %}{{ kwargs.__class__ }}{% endmacro %}{{ m(a=1) }}
{% macro m() %}{{ caller.__class__ }}{{ caller._func }}{% endmacro %}{% call m() %}{% endcall %}
{% block b %}{{ super.__class__ }}{% endblock %}
{% block b %}{{ self.b.__globals__ }}{% endblock %}
{{ namespace(a=1)._Namespace__attrs }}
{{ namespace(a=1) | attr('_Namespace__attrs') }}
{% set ns = namespace() %}{% set ns._Namespace__attrs = {} %}
{{ undefined_name.__class__ }}
{{ undefined_name | attr('_undefined_exception') }}
{{ raise_exception | attr('__globals__') }}
{{ strftime_now | attr('__code__') }}
{{ (messages | tojson).__class__ }}
{{ dict | attr('__call__') | attr('__globals__') }}
{{ dict.fromkeys.__globals__ }}
{{ dict.fromkeys | attr('__func__') }}
{{ ''.join.__self__.__class__ }}
{% generation %}{{ caller.__globals__ }}{% endgeneration %}
{{ environment.__class__ }}
{{ messages.__init__.__self__ }}
# CVE-2024-34359: a checkpoint's template that started a program in llama.cpp's Python binding
{% for x in ().__class__.__base__.__subclasses__() %}{{ x()._module.__builtins__['__import__']('os') }}{% endfor %}
"""
#: Published ways out of Jinja's sandbox and steps of them: each must fail, or show nothing.
ESCAPES = [
    # the classic walk from an object to os, by attributes, items, filters and methods
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}{{ ''['__class__']['__base__'] }}",
    "{{ '' | attr('__class__') | attr('__mro__') }}",
    "{{ messages | attr('__class__') | attr('__base__') | attr('__subclasses__') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__code__.co_consts }}",
    "{{ strftime_now.__globals__['__builtins__']['__import__']('os').popen('id').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__class__.__base__.__subclasses__() }}",
    "{{ dict.mro() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os }}",
    "{{ range.__class__ }}",
    "{{ (1).__class__.__base__.__subclasses__() }}",
    "{{ request.application.__globals__ }}",
    "{{ config.__class__.__init__.__globals__['os'] }}",
    "{{ url_for.__globals__ }}",
    "{% set x = namespace() %}{% set x.__class__ = 1 %}",
    "{{ namespace(__init__=1) }}",
    "{{ namespace(_x=1) }}",
    # CVE-2016-10745, CVE-2019-10906: str.format and str.format_map
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{a.__class__.__mro__}'.format_map({'a': messages}) }}",
    "{{ ('{0.__cl' ~ 'ass__}').format('') }}",
    # CVE-2024-56326: str.format kept in a variable, passed to a filter or called later
    "{% set f = '{0.__class__.__base__}'.format %}{{ f('') }}",
    "{{ ['{0.__class__.__base__}'] | map('format', '') | list }}",
    "{% macro call(f) %}{{ f('') }}{% endmacro %}{{ call('{0.__class__.__mro__}'.format) }}",
    "{{ [''] | map('{0.__class__}'.format) | list }}",
    # CVE-2025-27516: the attr filter reaches str.format
    "{{ ('{0.__class__.__base__}' | attr('format'))('') }}",
    "{{ ('{a.__class__}' | attr('format_map'))({'a': ''}) }}",
    "{{ (['{0.__class__.__mro__}'] | map(attribute='format') | first)('') }}",
    "{{ ([''] | groupby('__class__')) }}",
    "{{ ([''] | map(attribute='__class__') | list) }}",
    "{{ ([''] | selectattr('__class__') | list) }}",
    "{{ ([''] | sum(attribute='__class__')) }}",
    "{{ ([''] | sort(attribute='__class__') | list) }}{{ ([''] | unique(attribute='__class__') | list) }}",
    # generators, coroutines and functions that lead to frames
    "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}{{ m._func.__globals__ }}",
    "{{ (messages | map('upper')).gi_frame.f_globals }}",
    "{{ ((messages | map('upper')) | attr('gi_frame')) }}",
    "{{ caller.__globals__ }}",
    # what changes what the template was given
    "{{ messages.append(1) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].pop('role') }}",
    "{% do messages.append(1) %}",
    "{{ messages.sort() }}",
    *(line for line in MORE.splitlines() if not line.startswith("#")),
    # other files
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as p %}",
    "{% extends '/etc/passwd' %}",
    "{% from 'os' import system %}",
    "{{ get_flashed_messages.__globals__ }}",
]
LEAKS = ("<class", "<function", "<built-in", "<module", "<frame", "0x", "root:", "uid=", "os.", "subclass")


@pytest.mark.parametrize("template", ESCAPES)
def test_no_way_out(template: str) -> None:
    try:
        said = word_tokenizer(chat=template).apply_chat_template(HI)
    except DataError as error:
        assert "chat template" in str(error)
    else:
        assert not any(leak in said for leak in LEAKS), said
    assert HI == [{"role": "user", "content": "one"}]


#: More of them, one a line.
MORE_ENDLESS = r"""# filters, methods and formats that take a size
{{ messages | batch(10**10, 0) | list }}
{{ range(9) | batch(10**8, 'x' * 10**6) | list }}
{{ messages | slice(10**10) | list }}
{{ ('a' | wordwrap(1)) ~ 'a	'.expandtabs(10**11) }}
{{ '{0:{1}}'.format(1, 10**11) }}
{{ '%*d' % (10**10, 1) }}
{{ '%.*f' % (10**10, 1.5) }}
{{ (2 ** 10**7) | string }}
{{ (9 ** 99999) | round(-99999) }}
{{ ' '.join(['a' * 10**6] * 10**6) }}
{{ ('a,' * 10**8).split(',') }}
{{ dict.fromkeys(range(99999), 'a' * 10**6) | tojson }}
{{ strftime_now('%Y' * 10**8) }}
{{ raise_exception('x' * 10**8) }}
{{ {}['x' * 10**8] }}
# patterns that go back and forth: CVE-2020-28493 and its like
{{ ('www.' * 10**5) | urlize }}
{{ ('a.' * 10**5 ~ '@') | urlize }}
{{ ('<' * 10**6) | striptags }}
{{ ('<!--' * 10**6) | striptags }}
# what is nested without end, and what walks through it
{% set ns = namespace(t=()) %}{% for i in range(99999) %}{% set ns.t = (ns.t,) %}{% endfor %}{{ ns.t }}
{% set ns = namespace(t=()) %}{% for i in range(99999) %}{% set ns.t = (ns.t,) %}{% endfor %}{{ {ns.t: 1}[ns.t] }}
{% set ns = namespace(d=0) %}{% for i in range(99999) %}{% set ns.d = [ns.d] %}{% endfor %}{{ ns.d | tojson }}
# recursion, and output that is kept back
{% for x in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}
{% macro a(n) %}{{ b(n) }}{{ b(n) }}{% endmacro %}{% macro b(n) %}{{ a(n) }}{% endmacro %}{{ a(1) }}
{% macro a() %}{% call a() %}{{ caller() }}{% endcall %}{% endmacro %}{% call a() %}x{% endcall %}
{% set x %}{% for i in range(99999) %}{{ 'a' * 10**5 }}{% endfor %}{% endset %}
{% filter upper %}{% for i in range(99999) %}{{ 'a' * 10**5 }}{% endfor %}{% endfilter %}
{% generation %}{% for i in range(99999) %}{{ 'a' * 10**5 }}{% endfor %}{% endgeneration %}
{% for i in range(99999) %}{% generation %}{% for j in range(9999) %}{% endfor %}{% endgeneration %}{% endfor %}
{% for i in range(99999) %}{{ range(99999) | sort | unique | list | length }}{% endfor %}
"""
#: Templates that would go on for ever, or take more memory than there is.
ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ 9**9**9 }}",
    "{% set n = 9**9**8 %}",
    "{{ 'a' * 10**11 }}",
    "{{ [0] * 10**11 }}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s=['a']) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '{:99999999999}'.format(1) }}",
    "{{ 'a'.center(10**11) }}{{ 'a' | center(10**11) }}",
    "{{ 'a'.ljust(10**11) }}{{ '1'.zfill(10**11) }}",
    "{{ 'a\nb' | indent(10**11) }}",
    "{{ [[1]] | tojson(indent=10**11) }}",
    "{{ range(99999) | join('a' * 10**7) }}",
    "{{ ('a' * 10**5).replace('a', 'b' * 10**7) }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for i in range(99999) %}{{ 'a' * 10**6 }}{% endfor %}",
    "{% for i in range(99999) %}{{ messages | tojson * 10**5 }}{% endfor %}",
    "{{ lipsum(n=10**9) }}",
    "{{ 'a' | urlize * 10**11 }}",
    *(line for line in MORE_ENDLESS.splitlines() if not line.startswith("#")),
    "{" * 100_000,
    "{{ " + "(" * 100_000 + " }}",
    "{% if 1 %}" * 5_000,
    "{{ 1" + " + 1" * 100_000 + " }}",
]


@pytest.mark.parametrize("template", ENDLESS, ids=range(len(ENDLESS)))
def test_time_and_memory_are_bounded(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert word_tokenizer(chat="{{ messages[0].content }}").apply_chat_template(HI) == "one"  # the process is there
    begun = time.monotonic()
    with monkeypatch.context() as changed:
        changed.setattr(chat_template, "SECONDS", 0.8)
        try:
            assert len(word_tokenizer(chat=template).apply_chat_template(HI)) <= 2**24
        except DataError as error:
            assert "chat template" in str(error) and len(str(error)) < 1000
    assert time.monotonic() - begun < 8
    assert word_tokenizer(chat="{{ messages[0].content }}").apply_chat_template(HI) == "one"  # and on it goes


def test_limits_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond a limit where the next turn is opened is an error at once, and not tried for every turn."""
    monkeypatch.setattr(chat_template, "SECONDS", 1.5)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"
    opening = "{% if add_generation_prompt %}" + loop + "{% endif %}"
    turns = [{"role": role, "content": "one"} for role in ("user", "assistant") * 20]
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"the chat template (wrote more than|did not come to an end)"):
        encode_rows([Row("messages", {"messages": turns}, "a row")], word_tokenizer(chat=CHAT + opening))
    assert time.monotonic() - begun < 8


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on files")
def test_nothing_can_be_written(tmp_path: Path) -> None:
    """Should a template get out all the same, its process still may not write a file."""
    worker = Path(chat_template.__file__).with_name("chat_worker.py")
    code = "import io, runpy, sys; sys.stdin = io.StringIO(); runpy.run_path(sys.argv[1], run_name='__main__'); "
    code += "print('written', open('here', 'w', buffering=1).write('x\\n'))"
    command = [sys.executable, "-c", code, str(worker)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode != 0 and "File too large" in found.stderr and (tmp_path / "here").read_bytes() == b""


def test_the_worker_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = word_tokenizer(chat="{{ messages[0].content }}")
    assert tokenizer.apply_chat_template(HI) == "one"
    process = chat_template._WORKER.process
    assert process is not None
    process.kill()
    process.wait()
    assert tokenizer.apply_chat_template(HI) == "one"
    monkeypatch.setattr("sys.executable", "/no/such/python")
    chat_template._WORKER.stop()
    with pytest.raises(DataError, match="no process can be started"):
        tokenizer.apply_chat_template(HI)


def test_only_plain_values_reach_a_template() -> None:
    with pytest.raises(DataError, match="cannot be given these messages"):
        word_tokenizer(chat="{{ x }}").apply_chat_template(HI, x=object())


@pytest.mark.parity
def test_every_extra_of_transformers_environment() -> None:
    transformers = pytest.importorskip("transformers")
    template = """{%- set ns = namespace(n=0, found='no') -%}
{%- for m in messages %}
    {%- if m.role == 'skip' %}{% continue %}{% endif %}
    {% set ns.n = ns.n + 1 %}{{ ns.n }} {{ m | tojson }} {{ m | tojson(indent=2) }}
    {{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=true) }}
    {{ {'a': [1]} | tojson(separators=(',', ':')) }} {{ '<é>' | tojson(ensure_ascii=true) }}
    {%- if ns.n > 1 %}{% break %}{% endif %}
{%- endfor %}
{{ strftime_now('%Y') }} {{ dict(a=1, b=2).a }} {{ dict.fromkeys(['a'], 1) }} {{ bos_token }} {{ pad_token is defined }}
{%- generation %} said {% endgeneration -%}
    {% if tools is none %}none{% endif %} {{ documents is none }} {{ messages[0].content.startswith('o') }}
{{ messages | map(attribute='role') | join(',') }} {{ (messages | first).content | upper | replace('O', '0') }}
{{ messages[::-1] | length }} {{ "%s-%d" | format('a', 3) }} {{ '{}'.format(5) }} {{ 7 // 2 }} {{ 'x' in ['x'] }}
{% macro say(x, y='d') %}[{{ x }}{{ y }}{{ caller() if caller else '' }}]{% endmacro %}
{{ say('a') }}{% call say('b') %}c{% endcall %}
{% filter upper %}shout{% endfilter %} {% raw %}{{ raw }}{% endraw %} {# comment #} {{ none or 'or' }}"""
    messages = [{"role": r, "content": c, "x": None} for r, c in (("user", "one"), ("skip", "two"), ("user", "three"))]
    ours = word_tokenizer(chat=template)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=ours.backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=template
    )
    assert ours.apply_chat_template(messages) == theirs.apply_chat_template(messages, tokenize=False)


def test_templates_see_the_named_tokens_that_there_are() -> None:
    bare = Tokenizer(word_tokenizer().backend, {"eos_token": "</s>"}, "{{ eos_token }} {{ bos_token is defined }}")
    assert bare.apply_chat_template(HI) == "</s> False"
