"""How the page looks, in light and in dark; nothing on it is told by colour alone.

Values only.
"""

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1b1f24; --faint: #59636e; --line: #d1d9e0; --soft: #f3f5f7;
  --step: #9ec5fe; --edge: #0b5cad; --bad: #b42318; --held: #8a6d00; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --text: #e6e9ec; --faint: #9aa4ae; --line: #3a424a; --soft: #1f2429; --step: #24476e;
    --edge: #7db7ff; --bad: #ff8a80; --held: #e0b83c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 90rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; }
.faint { color: var(--faint); }
pre, code, .name, td, th { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px; }
pre { margin: .3rem 0; padding: .7rem; background: var(--soft); border: 1px solid var(--line); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 24rem; overflow: auto; }
pre.command { user-select: all; border-left: 4px solid var(--edge); }
.parting { border-left: 4px solid var(--bad); padding: .4rem .8rem; background: var(--soft); }
.timeline { display: flex; border: 1px solid var(--line); border-radius: 4px; }
.timeline > div { overflow-x: auto; flex: 1; }
.timeline > svg { flex: none; border-right: 1px solid var(--line); }
.scroll { overflow: auto; max-height: 85vh; border: 1px solid var(--line); border-radius: 4px; }
svg { display: block; }
svg text { fill: var(--text); font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
svg .axis { fill: var(--faint); font-size: 11px; }
svg .lane { stroke: var(--line); }
svg .way { fill: none; stroke: var(--faint); stroke-opacity: .5; }
svg .step rect { fill: var(--step); stroke: var(--edge); }
svg .deviates rect { stroke-width: 3; stroke: var(--bad); }
svg .deviates text, svg .parts text { fill: var(--bad); font-weight: bold; }
svg a:hover rect, svg a:focus rect { fill: var(--page); }
svg .ends { stroke: var(--text); stroke-width: 3; }
svg .held { stroke: var(--held); stroke-width: 4; }
svg .waits { stroke: var(--faint); stroke-width: 2; stroke-dasharray: 2 5; }
svg .parts line { stroke: var(--bad); stroke-width: 2; stroke-dasharray: 6 4; }
svg .node rect { fill: var(--soft); stroke: var(--faint); }
svg .node.cycle rect { stroke: var(--bad); stroke-width: 3; }
svg .arrow { fill: none; stroke: var(--faint); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg .arrow.cycle { stroke: var(--bad); stroke-width: 3; stroke-dasharray: none; }
svg .label { paint-order: stroke; stroke: var(--page); stroke-width: 5px; stroke-linejoin: round; }
svg marker path { fill: var(--faint); }
svg marker.cycle path { fill: var(--bad); }
table { border-collapse: collapse; min-width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--soft); }
tr:target { outline: 3px solid var(--edge); outline-offset: -3px; }
tr.deviates th { border-left: 4px solid var(--bad); }
tr.parts { background: var(--soft); }
td code { display: block; white-space: pre-wrap; overflow-wrap: anywhere; }
td .note { display: block; font-weight: bold; }
"""
