"""Reviews by people: outputs of two prompt versions, side by side on a local web page."""
