"""Displays: each class of IPython.display, each mime type, handles, clearing."""

from __future__ import annotations

from .compare import check, scenarios
from .kernels import Pair
from .steps import Scenario, run, scenario

_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhg"
    "GAWjR9awAAAABJRU5ErkJggg=="
)
_GIF = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
_CLASSES = {
    "HTML": "HTML('<b>x</b>')",
    "HTML with metadata": "HTML('<b>x</b>', metadata={'isolated': True})",
    "Markdown": "Markdown('# x')",
    "Math": "Math(r'x^2')",
    "Latex": "Latex(r'$x$')",
    "SVG": "SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')",
    "JSON": "JSON({'a': [1, None]}, expanded=True, root='r')",
    "GeoJSON": "GeoJSON({'type': 'Point', 'coordinates': [1, 2]})",
    "Javascript": "Javascript('1 + 1')",
    "Javascript with lib": "Javascript('1', lib='https://example.org/x.js', css='x.css')",
    "Pretty": "Pretty('x')",
    "TextDisplayObject": "TextDisplayObject('x')",
    "DisplayObject": "DisplayObject('x')",
    "Image png": f"Image(data=__import__('base64').b64decode('{_PNG}'))",
    "Image sized": f"Image(data=__import__('base64').b64decode('{_PNG}'), width=10, alt='a')",
    "Image retina": f"Image(data=__import__('base64').b64decode('{_PNG}'), retina=True)",
    "Image gif": f"Image(data=__import__('base64').b64decode('{_GIF}'), format='gif')",
    "Image url": "Image(url='https://example.org/x.png', width=3)",
    "Image jpeg": "Image(data=b'\\xff\\xd8\\xff\\xe0', format='jpeg')",
    "Image without": "Image()",
    "Audio": "Audio(data=[0.0, 1.0, -1.0], rate=8000, autoplay=True)",
    "Audio url": "Audio(url='https://example.org/x.wav')",
    "Video": "Video('https://example.org/x.mp4', width=3)",
    "Video embedded": "Video(data=b'abc', embed=True, mimetype='video/mp4')",
    "IFrame": "IFrame('https://example.org', 10, 20, a=1)",
    "YouTubeVideo": "YouTubeVideo('abc')",
    "VimeoVideo": "VimeoVideo('1')",
    "ScribdDocument": "ScribdDocument(1)",
    "FileLink": "FileLink('x.txt')",
    "FileLinks": "FileLinks('.')",
    "Code": "Code('x = 1', language='python')",
    "ProgressBar": "ProgressBar(3)",
}
_MIMES = [
    ("text", "plain", "'t'"),
    ("text", "html", "'<i>t</i>'"),
    ("text", "markdown", "'*t*'"),
    ("text", "latex", "'$t$'"),
    ("image", "svg+xml", "'<svg/>'"),
    ("image", "png", "b'\\x89PNG'"),
    ("image", "png", "'iVBORw0='"),
    ("image", "jpeg", "b'\\xff\\xd8'"),
    ("application", "pdf", "b'%PDF'"),
    ("application", "json", "{'a': 1}"),
    ("application", "javascript", "'1'"),
    ("application", "vnd.vega.v5+json", "{'marks': []}"),
    ("application", "vnd.custom", "'x'"),
    ("application", "vnd.custom", "[1, 2]"),
    ("application", "octet-stream", "b'\\x00\\xff'"),
]

SCENARIOS = [
    scenario(f"result {name}", f"from IPython.display import *\n{code}")
    for name, code in _CLASSES.items()
]
SCENARIOS += [
    scenario(
        "display of all classes",
        "from IPython.display import *\n"
        + "\n".join(
            f"display({code})" for name, code in _CLASSES.items() if name != "Image without"
        ),
    ),
    scenario(
        "raw mime bundles",
        "from IPython.display import display\n"
        + "\n".join(
            f"display({{'{kind}/{name}': {value}}}, raw=True)" for kind, name, value in _MIMES
        ),
    ),
    scenario(
        "all mime types in one",
        "display({'text/plain': 'p', 'text/html': 'h', "
        "'application/json': {'a': [1]}}, raw=True, metadata={'text/html': {'isolated': True}})",
    ),
    scenario(
        "repr methods",
        "class A:\n"
        + "\n".join(
            f"    def _repr_{name}_(self): return {value}"
            for name, value in (
                ("html", "'<b>'"),
                ("markdown", "'*'"),
                ("latex", "'$'"),
                ("svg", "'<svg/>'"),
                ("png", "b'\\x89PNG\\r\\n\\x1a\\n'"),
                ("jpeg", "b'\\xff\\xd8'"),
                ("pdf", "b'%PDF'"),
                ("json", "{'a': 1}"),
                ("javascript", "'1'"),
            )
        )
        + "\nA()",
        "display(A())",
    ),
    scenario(
        "repr with metadata",
        "class A:\n    def _repr_png_(self): return b'\\x89PNG', {'width': 3}\nA()",
    ),
    scenario(
        "_repr_mimebundle_",
        "class A:\n    def _repr_mimebundle_(self, include=None, exclude=None):"
        "\n        return {'text/html': 'h', 'x/y': [1, {'z': None}]}, {'text/html': {'m': "
        "1}}\nA()",
    ),
    scenario(
        "_ipython_display_",
        "class A:\n    def _ipython_display_(self): print('mine')\nA()",
        "display(A())",
    ),
    scenario(
        "include and exclude",
        "from IPython.display import HTML\n"
        "display(HTML('x'), include=['text/plain'])\ndisplay(HTML('x'), exclude=['text/html'])",
    ),
    scenario("display several", "display(1, 'a', None, [1])"),
    scenario("display nothing", "display()"),
    scenario("display with an id", "display(1, display_id='d')"),
    scenario("display with an id made up", "h = display(1, display_id=True)\ntype(h).__name__"),
    scenario(
        "update",
        "h = display('a', display_id='u')",
        "h.update('b')",
        "update_display('c', display_id='u')",
        "h.display('d')",
    ),
    scenario(
        "update_display",
        "from IPython.display import update_display\n"
        "display(1, display_id='q')\nupdate_display(2, display_id='q')",
    ),
    scenario(
        "update without display",
        "from IPython.display import update_display\nupdate_display(2, display_id='never')",
    ),
    scenario(
        "DisplayHandle",
        "from IPython.display import DisplayHandle\nh = DisplayHandle('mine')\n"
        "h.display(1)\nh.update(2)\nh",
    ),
    scenario("transient", "display(1, transient={'x': 1})"),
    scenario("metadata", "display(1, metadata={'text/plain': {'a': 1}})"),
    scenario(
        "publish_display_data",
        "from IPython.display import publish_display_data\n"
        "publish_display_data({'text/plain': 'x'}, metadata={'m': 1})",
    ),
    scenario("publish of no dict", "get_ipython().display_pub.publish('x')"),
    scenario(
        "publish data JSON lacks",
        "display({'text/plain': 'x', 'application/json': {1, 2}}, raw=True)",
    ),
    scenario(
        "NaN in JSON",
        "display({'application/json': {'a': float('nan'), 'b': float('inf')}}, raw=True)",
    ),
    scenario(
        "dates in JSON",
        "import datetime\n"
        "display({'application/json': {'d': datetime.datetime(2020, 1, 2)}}, raw=True)",
    ),
    scenario("keys that are no text", "display({'application/json': {1: 2}}, raw=True)"),
    scenario("tuples in JSON", "display({'application/json': {'a': (1, (2,))}}, raw=True)"),
    scenario("big integers in JSON", "display({'application/json': {'a': 2**70}}, raw=True)"),
    scenario(
        "clear_output",
        "from IPython.display import clear_output\nprint('a')\nclear_output()\nprint('b')",
    ),
    scenario(
        "clear_output wait",
        "from IPython.display import clear_output\nprint('a')\nclear_output(wait=True)\nprint('b')",
    ),
    scenario(
        "clear_output loop",
        "from IPython.display import clear_output\nfor i in range(3):\n"
        "    clear_output(wait=True)\n    display(i)",
    ),
    scenario("result None", "None"),
    scenario("result semicolon", "1;", "_"),
    scenario("result text", "'a\\nb'"),
    scenario("result nested", "{'a': list(range(100)), 'b': {'c': (1,)}}"),
    scenario("result long list", "list(range(2000))"),
    scenario("result function", "def f(a, *, b=1): pass\nf"),
    scenario("result class", "class A: pass\nA"),
    scenario("result module", "import os\nos"),
    scenario("result type", "int"),
    scenario("result bytes", "b'abc'"),
    scenario("result float precision", "%precision 2\n1/3", "%precision %r", "1/3"),
    scenario("result set order", "{3, 1, 2}"),
    scenario("result recursive", "a = []\na.append(a)\na"),
    scenario("result exception", "ValueError('x')"),
    scenario("result surrogate", "'\\udc80'"),
    scenario(
        "for_type formatter",
        "get_ipython().display_formatter.formatters['text/html']"
        ".for_type(int, lambda x: f'<b>{x}</b>')",
        "3",
        "get_ipython().display_formatter.formatters['text/html'].pop(int)",
    ),
    scenario(
        "pretty printer",
        "class A:\n    def _repr_pretty_(self, p, cycle): p.text('pretty!')\n[A()]",
    ),
    scenario(
        "pandas",
        "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', None]})",
        "display(pd.Series([1.5, 2], name='s'))",
        "pd.DataFrame({'a': [1]}).style",
    ),
    scenario("numpy", "import numpy as np\nnp.arange(12).reshape(3, 4)", "np.float64(1.5)"),
    scenario("matplotlib inline", "import matplotlib.pyplot as plt\nplt.plot([1, 2])", fresh=True),
    scenario(
        "matplotlib figures",
        "%matplotlib inline\nimport matplotlib.pyplot as plt\n"
        "fig, ax = plt.subplots(figsize=(1, 1))\nax.plot([1])\nNone",
        "fig",
        "plt.figure(figsize=(1, 1)); plt.show()",
        "plt.get_backend()",
    ),
    scenario(
        "matplotlib svg",
        "%config InlineBackend.figure_formats = ['png']\n"
        "import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1)).text(0, 0, 'x')",
        run("plt.close('all')"),
    ),
    scenario(
        "display in a thread",
        "import threading\nt = threading.Thread(target=lambda: display('t'))\nt.start(); t.join()",
    ),
    scenario(
        "display_pub hooks",
        "def hook(msg):\n    print(msg['header']['msg_type'], sorted(msg['content']))\n"
        "    return msg\nget_ipython().display_pub.register_hook(hook)\ndisplay(1)",
        "get_ipython().display_pub.unregister_hook(hook)",
        "display(2)",
        loose_streams=True,
    ),
    scenario(
        "capture_output",
        "from IPython.utils.capture import capture_output\n"
        "with capture_output() as c:\n    print('o'); display(1)\nc.stdout, len(c.outputs)",
        "c.show()",
    ),
    scenario("display before IPython.display", "display", fresh=True),
    scenario(
        "set_matplotlib_formats",
        "from matplotlib_inline.backend_inline import set_matplotlib_formats\n"
        "set_matplotlib_formats('png')",
    ),
    scenario(
        "rich repr of a namedtuple",
        "from collections import namedtuple\nnamedtuple('P', 'x y')(1, 2)",
    ),
    scenario(
        "result of a dataclass",
        "from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int = 1\nD()",
    ),
]


@scenarios(SCENARIOS)
def test_parity(pair: Pair, scenario: Scenario) -> None:
    check(pair, scenario)
