"""One quiet look for every widget, in the light and the dark theme, safe for colour-blind eyes: no colour of our own says anything alone."""

# For the box with class `promptlab-view` that holds a widget. What is coloured takes the front end's own variables, so that a theme is
# kept; the grey of a slider has 3:1 on white and on JupyterLab's black.
CSS = """
.promptlab-view .lm-TabBar-tabLabel, .promptlab-view .p-TabBar-tabLabel { color: var(--jp-ui-font-color1, inherit); }
.promptlab-view .noUi-target { background: #808080; border-color: #808080; }
.promptlab-view .noUi-handle { border: 1px solid #808080; }
.promptlab-view :focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 2px; }
.promptlab-view img { border-radius: 3px; }
.promptlab-view pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""
