from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from kan_diffusion.denoisers.families import FAMILIES
from kan_diffusion.report.style import REAL, model_styles

# Linear RGB as a viewer without cones for medium wavelengths sees it (Machado et al. 2009).
DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
# The same for long wavelengths.
PROTANOPIA = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

READERS = (np.eye(3), DEUTERANOPIA, PROTANOPIA)


def family_styles():
    return styles_of(name=list(FAMILIES), family=list(FAMILIES))


def lab(colour, seen_by=READERS[0]):
    """CIE L*a*b* (D65) of a colour, as somebody sees it."""
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(XYZ @ np.clip(seen_by @ linear, 0, 1) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def apart(one, other, seen_by):
    """How far apart somebody sees two colours."""
    return np.linalg.norm(lab(one, seen_by) - lab(other, seen_by))


def styles_of(**columns):
    return model_styles(pd.DataFrame(columns))


@pytest.mark.parametrize("more", [0, 5])
def test_families_differ_in_colour_or_marker_and_their_kinds_by_colour(more, monkeypatch):
    known = dict(FAMILIES)
    for kind in ("kan", "mlp", "other"):
        like = next(family for family in known.values() if family.kind == kind)
        for number in range(more):
            monkeypatch.setitem(FAMILIES, f"{kind} {number}", like)
    styles = family_styles()
    assert set(styles) == set(FAMILIES)
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(styles)
    kans, mlps = (
        {style.colour for name, style in styles.items() if FAMILIES[name].kind == kind}
        for kind in ("kan", "mlp")
    )
    for seen_by in READERS:
        assert min(apart(kan, mlp, seen_by) for kan in kans for mlp in mlps) > 25


def test_families_of_the_registry_have_colours_of_their_own():
    styles = family_styles()
    colours = [style.colour for style in styles.values()] + [REAL]
    assert min(apart(one, other, READERS[0]) for one, other in combinations(colours, 2)) > 12
    for one, other in combinations(styles.values(), 2):
        if one.line == other.line:  # the lines of losses have no markers
            assert min(apart(one.colour, other.colour, seen_by) for seen_by in READERS) > 12


def test_a_family_looks_the_same_whatever_stands_beside_it():
    alone = styles_of(name=["a"], family=["residual-kan"])
    among = styles_of(name=["x", "b", "a"], family=["new", "kan", "residual-kan"])
    assert list(among) == ["x", "b", "a"]
    assert alone["a"] == among["a"] == family_styles()["residual-kan"]
    assert among["x"].colour not in {style.colour for style in family_styles().values()}


def test_models_of_a_family_are_told_apart_and_those_outside_have_the_colours_of_their_kind():
    for family in ("mlp", "a.module:FAMILY"):
        styles = styles_of(name=[f"m{i}" for i in range(20)], family=[family] * 20)
        assert len({(style.colour, style.marker) for style in styles.values()}) == 20
        assert styles["m0"].colour != styles["m1"].colour
    styles = styles_of(name=["a", "b"], family=["x:A", "x:B"], kind=["kan", "mlp"])
    (red, _, blue), (other_red, _, other_blue) = (to_rgb(style.colour) for style in styles.values())
    assert blue > red
    assert other_blue < other_red
