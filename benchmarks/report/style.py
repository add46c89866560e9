"""How the page looks, on a screen and on paper."""

from __future__ import annotations

STYLE = """
:root { --ink: #1d2330; --soft: #5b6475; --line: #e3e6ec; --paper: #ffffff; --shade: #f6f7f9;
  --good: #14713d; --bad: #b3261e; --doubt: #8a5a00; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1340px; padding: 28px 26px 48px; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial,
  sans-serif; font-variant-numeric: tabular-nums; }
header { border-bottom: 1px solid var(--line); padding-bottom: 10px; }
h1 { font-size: 25px; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 34px 0 10px; }
header p { margin: 4px 0; color: var(--soft); }
.verdict { display: flex; justify-content: space-between; gap: 24px; margin: 14px 0 8px;
  padding: 11px 16px; border-radius: 7px; border-left: 5px solid; color: var(--ink);
  font-weight: 600; background: var(--shade); overflow-wrap: anywhere; }
.verdict span { color: var(--soft); font-weight: 400; white-space: nowrap; }
.verdict.passed { border-color: var(--good); background: #eef7f1; }
.verdict.parity, .verdict.failed { border-color: var(--bad); background: #fcf0ef; }
.verdict.missed { border-color: var(--doubt); background: #fdf6e7; }
p.plain { color: var(--soft); max-width: 90ch; font-size: 13.5px; }
p.warning { color: var(--doubt); font-weight: 600; }
ul { margin: 6px 0 14px; padding-left: 20px; }
li { margin: 2px 0; overflow-wrap: anywhere; }
ul.warning li::marker { color: var(--doubt); }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--shade); padding: 11px 14px; border-radius: 7px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 8px 0 16px; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px; }
th { text-align: left; font-weight: 600; color: var(--soft); vertical-align: bottom;
  border-bottom: 1.5px solid #c9cedb; padding: 6px 4px; line-height: 1.3; }
td { padding: 6px 4px; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
th.number { white-space: normal; }
td:first-child, td.word:nth-child(3) { white-space: nowrap; }
tr.measured td, tr.unavailable td { color: var(--soft); }
.badge { border-radius: 9px; padding: 1px 8px; background: var(--shade); color: var(--soft);
  display: inline-block; }
.badge.passed { background: #e4f3ea; color: var(--good); }
.badge.parity, .badge.failed { background: #fbe6e4; color: var(--bad); font-weight: 600; }
.badge.missed { background: #fbf0d9; color: var(--doubt); font-weight: 600; }
tbody tr:hover { background: var(--shade); }
figure { margin: 14px 0 20px; break-inside: avoid; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 3px; }
.plot svg { display: block; width: 100%; max-width: 900px; height: auto; }
figure:has(img) { display: inline-block; width: 49%; margin: 8px 0; vertical-align: top; }
figure img { max-width: 100%; border: 1px solid var(--line); border-radius: 4px; }
footer { margin-top: 40px; padding-top: 10px; border-top: 1px solid var(--line);
  color: var(--soft); font-size: 13px; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  table { font-size: 9px; }
  p.plain, figcaption { font-size: 10px; }
  .plot svg { max-width: 600px; }
  figure { margin: 6px 0 10px; }
  th, td { padding: 3px 5px; }
  .number { white-space: normal; }
  .wide { overflow: visible; }
  h2 { break-after: avoid; margin-top: 18px; }
  tr, pre { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
