"""A page in the browser: open a photograph, click what shall be sharp, drag the aperture.

``session`` is what is done with one photograph, and knows nothing of the browser; ``layout`` is the
page in Gradio (extra ``app``), and ``serving`` the server, which loads nothing from elsewhere.
"""
