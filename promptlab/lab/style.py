"""One quiet look for every widget, in the light and the dark theme, safe for colour-blind eyes: no colour of our own says anything alone."""

# For the box with class `promptlab-view` that holds a widget. What is coloured takes the front end's own variables, so that a theme is
# kept; the grey of sliders and arrows has 3:1 on white and on JupyterLab's black. A tab is as wide as its title where room is short.
CSS = """
.promptlab-view .lm-TabBar-tabLabel, .promptlab-view .p-TabBar-tabLabel { color: var(--jp-ui-font-color1, inherit); }
.promptlab-view .widget-slider :is(.noUi-target, .noUi-connects, .ui-slider) { background: #808080; border-color: #808080; }
.promptlab-view .noUi-handle { border: 1px solid #808080; }
.promptlab-view :focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 2px; }
.promptlab-view { --jp-widgets-dropdown-arrow: url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 20 20'%3E\
%3Cpath d='M6 8l4 4 4-4' fill='none' stroke='%23808080' stroke-width='2'/%3E%3C/svg%3E"); }
.promptlab-view .jupyter-widgets.widget-tab > .lm-TabBar .lm-TabBar-tab,
.promptlab-view .jupyter-widgets.widget-tab > .p-TabBar .p-TabBar-tab { flex: 1 1 auto; max-width: 144px; padding: 0 6px; }
.promptlab-view .jupyter-widgets > .widget-html-content { line-height: 1.4; }
.promptlab-view .widget-checkbox label { display: flex; align-items: center; }
.promptlab-view p { margin: 8px 0; }
.promptlab-view small, .promptlab-keys { font-size: 12px; }
.promptlab-keys { margin: 2px; color: var(--jp-widgets-label-color, inherit); }
.promptlab-keys:empty { margin: 0; }
.promptlab-view table { border-collapse: collapse; }
.promptlab-view tr > :first-child { padding-left: 0; }
.promptlab-view [data-cards] table { width: 200px; }
.promptlab-view [data-cards] :is(td, th) { padding: 1px 0 1px 6px; text-align: right; }
.promptlab-view [data-cards] tr > :first-child { padding-left: 0; text-align: left; }
.promptlab-view [data-cards] p { margin-bottom: 0; }
.promptlab-rank .widget-gridbox button:disabled { opacity: 1; background: none; }
.promptlab-view img { border-radius: 3px; }
.promptlab-view pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""
