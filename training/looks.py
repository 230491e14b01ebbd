"""Looks that are computed from pictures: the model's derived styles, and what its adapters (LoRAs) teach.

All take `[H, W, 3]` from 0 to 255 and give the same. They draw at any size; lengths grow with the picture's.
"""

import cv2
import numpy as np
from scipy.spatial import Delaunay

cv2.setNumThreads(1)


def _bytes(picture):
    return np.clip(picture, 0, 255).astype(np.uint8)


def _blurred(picture, width):
    return cv2.GaussianBlur(picture, (0, 0), width)


def _outlines(picture, low, high, blur):
    """Edges of any of the three colours."""
    smooth = _bytes(_blurred(picture, blur))
    edges = [cv2.Canny(smooth[..., channel], low, high) for channel in range(3)]
    return edges[0] | edges[1] | edges[2]


def _contrast(picture):
    """Lightness from 0 to 1 to which hue adds, so that red on green of the same lightness shows."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return (lab[..., 0] + 0.45 * lab[..., 1] - 0.25 * lab[..., 2]) / 100


def _slope(field):
    return cv2.Sobel(field, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(field, cv2.CV_32F, 0, 1, ksize=3)


# --- styles of the base model


def line_art(picture, random):
    edges = cv2.dilate(_outlines(picture, 40, 110, 1.2), np.ones((2, 2), np.uint8))
    return np.repeat(np.clip(255 - 1.5 * _blurred(edges, 0.8).astype(np.float32), 0, 255)[..., None], 3, -1)


def pixel_art(picture, random):
    side, cells = picture.shape[0], random.choice([32, 32, 42])
    small = cv2.resize(picture, (cells, cells), interpolation=cv2.INTER_AREA)
    return cv2.resize(np.clip(np.round(small / 36) * 36, 0, 255), (side, side), interpolation=cv2.INTER_NEAREST)


def low_poly(picture, random):
    side, smooth = picture.shape[0], _blurred(picture, 2)
    ys, xs = np.where(cv2.Canny(_bytes(smooth), 40, 110) > 0)
    step = side // 9
    points = {(0, 0), (side - 1, 0), (0, side - 1), (side - 1, side - 1)}
    moved = lambda at: min(side - 1, max(0, at + random.randint(-step // 3, step // 3)))
    points |= {(moved(x), moved(y)) for y in range(0, side + 1, step) for x in range(0, side + 1, step)}
    points |= {(int(xs[i]), int(ys[i])) for i in (random.randrange(len(xs)) for _ in range(min(170, len(xs))))}
    points, out = np.array(sorted(points)), picture.copy()
    for corners in (points[triangle] for triangle in Delaunay(points).simplices):
        middle = corners.mean(0)
        inner = (corners * 0.6 + middle * 0.4).astype(int)
        colour = (2 * smooth[int(middle[1]), int(middle[0])] + sum(smooth[y, x] for x, y in inner)) / 5 * random.uniform(0.93, 1.07)
        cv2.fillConvexPoly(out, corners.astype(np.int32), np.clip(colour, 0, 255).tolist(), cv2.LINE_AA)
    return out


def neon(picture, random):
    edges = cv2.dilate(_outlines(picture, 40, 110, 1.4), np.ones((3, 3), np.uint8)).astype(np.float32) / 255
    hsv = cv2.cvtColor(_bytes(_blurred(picture, 1.4)), cv2.COLOR_RGB2HSV)
    hsv[..., 0][hsv[..., 1] < 60] = random.choice([150, 90, 135])
    hsv[..., 1], hsv[..., 2] = 235, 255
    colours = _blurred(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32), 3)
    glow = 1.3 * _blurred(edges, 6) + _blurred(edges, 1)
    return np.clip(np.array([18, 8, 38], np.float32) + 0.16 * picture + colours * glow[..., None], 0, 255)


def comic(picture, random):
    hsv = cv2.cvtColor(cv2.bilateralFilter(_bytes(picture), 7, 45, 7), cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 1], hsv[..., 2] = np.clip(hsv[..., 1] * 1.25, 0, 255), np.round(hsv[..., 2] / 64) * 64
    colours = cv2.cvtColor(_bytes(hsv), cv2.COLOR_HSV2RGB).astype(np.float32)
    ink = _blurred(cv2.dilate(_outlines(picture, 50, 120, 1.2), np.ones((3, 3), np.uint8)), 0.7).astype(np.float32) / 255
    return colours * (1 - np.clip(1.2 * ink, 0, 1))[..., None]


STYLES = {"line art": line_art, "pixel art": pixel_art, "low poly": low_poly, "neon punk": neon, "comic book": comic}

# --- what the adapters teach

PAPER = np.array([0.99, 0.94, 0.86], np.float32)  # of pastels: white becomes cream


def plaster(picture, opacity=None):
    """White plaster, lit from the upper left: a cut-out swells towards its middle, a whole picture becomes a relief."""
    opacity = np.ones(picture.shape[:2], np.float32) if opacity is None else opacity
    scale = picture.shape[0] / 192

    def spread(field, width):
        """A blur that counts what is opaque only."""
        return _blurred(field * opacity, width) / (_blurred(opacity, width) + 1e-3)

    contrast = spread(_contrast(picture), 1.1 * scale)
    height = (0.55 * contrast + 1.5 * (contrast - spread(contrast, 9 * scale))) * 13 * scale
    if opacity.min() < 0.5:
        radius = 26 * scale
        inside = np.minimum(cv2.distanceTransform((opacity > 0.5).astype(np.uint8), cv2.DIST_L2, 5), radius) / radius
        height += 0.62 * radius * np.sqrt(np.maximum(1 - (1 - inside) ** 2, 0))
    height = _blurred(height.astype(np.float32), 0.9 * scale)
    across, down = (1.25 / 8 * slope for slope in _slope(height))
    light = np.clip((0.52 * across + 0.62 * down + 0.59) / np.sqrt(across**2 + down**2 + 1), 0, 1)
    hollow = np.clip((_blurred(height, 5 * scale) - height) / (3.2 * scale), 0, 1)
    white = np.clip(0.40 + 0.72 * light - 0.2 * hollow, 0, 1.02)[..., None]
    return np.clip(white * np.array([252, 249, 243]) + (1 - white) * np.array([26, 26, 34]), 0, 255).astype(np.float32)


def pencil(picture, noise):
    """Graphite on paper: outlines, and strokes where it is dark. `noise` `[H, W]` makes the hand tremble."""
    side, scale = picture.shape[0], picture.shape[0] / 256
    grey = cv2.cvtColor(_bytes(picture), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    contrast = _blurred(_contrast(picture), 1.2 * scale)
    fine = 9 * np.maximum(0, np.abs(_blurred(contrast, 0.8 * scale) - _blurred(contrast, 2.6 * scale)) - 0.012)
    lines = _blurred(np.clip(np.maximum(fine, 1.7 * (np.hypot(*_slope(contrast)) - 0.10)), 0, 1), 0.9 * scale)
    dark = np.clip(1.05 * (0.80 - _blurred(grey, 2 * scale)), 0, 1)
    tremble = _blurred(noise.astype(np.float32), 9 * scale)
    tremble *= 2.2 * scale / tremble.std()
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    strokes = lambda along: 0.5 + 0.5 * np.cos((along + tremble) * 2 * np.pi / (9.5 * scale))
    shade = 0.62 * np.clip(dark * (0.35 + 0.65 * strokes(x + y)) + 0.6 * np.clip(dark - 0.45, 0, 1) * strokes(x - y), 0, 1)
    lead = np.clip(1 - (1 - 0.92 * lines) * (1 - shade), 0, 1)[..., None]
    return np.array([250, 248, 242]) * (1 - lead) + np.array([52, 52, 58]) * lead


def pastel(picture):
    """Few pale colours on a cream-coloured paper, with thick plum-coloured outlines."""
    scale, flat = picture.shape[0] / 256, _bytes(picture)
    for _ in range(3):
        flat = cv2.bilateralFilter(flat, 9, 40, 7 * scale)
    hsv = cv2.cvtColor(flat, cv2.COLOR_RGB2HSV).astype(np.float32)
    saturation, value = hsv[..., 1] / 255, np.floor(hsv[..., 2] / 255 * 4 + 0.5) / 4
    soft = np.stack([hsv[..., 0], 255 * np.clip(0.5 * saturation, 0, 0.4), 255 * (0.72 + 0.28 * value)], -1)
    colours = cv2.cvtColor(_bytes(soft), cv2.COLOR_HSV2RGB).astype(np.float32) * PAPER
    edges = (np.hypot(*_slope(_blurred(_contrast(picture), 2 * scale))) > 0.20).astype(np.uint8)
    edges = cv2.dilate(edges, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))).astype(np.float32)
    ink = np.clip(1.3 * _blurred(edges, 1.2 * scale), 0, 1)[..., None]
    return colours * (1 - ink) + np.array([74, 52, 92], np.float32) * ink
