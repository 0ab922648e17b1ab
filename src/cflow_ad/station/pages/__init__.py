"""The page: templates, texts in one file for each language, and small scripts without a build step.

::

    routes.py     which address gives which view
    rendering.py  templates with texts
    templates/    one for each view, on `base.html`
    texts/        en.json, de.json
    static/       core/ what all views use, parts/ what several show, views/ one script for each
"""
