"""Write `goldens/faces/`: faces found, aligned and embedded.

Photographs (`photos/*.webp`, lossless): parts of scikit-image's `astronaut` (NASA, public domain) and `coffee` (CC0).
`faces.safetensors` holds for each photograph `<photo>.boxes` [N, 4] (left, top, right, bottom), `<photo>.scores` [N] and
`<photo>.points` [N, 5, 2] as facenet-pytorch's MTCNN finds them, the largest first; the
largest one aligned as InsightFace does it (a similarity to the five points of ArcFace's template by scikit-image, then
`cv2.warpAffine`) is `crops/<photo>.webp`, with the matrix `<photo>.transform` [2, 3]. `scrfd.*` and `yunet.*` are what the random networks of
`face_networks.py` give on the photograph `face` (the first on its right 224 columns): the first by onnxruntime and the arithmetic of InsightFace's SCRFD,
the second by OpenCV's `FaceDetectorYN`; points as [N, 5, 2], scores descending. `embedding` [512] is what
`w600k_tiny.onnx` makes of the crop of `face` in onnxruntime.
"""

import cv2
import numpy as np
import onnxruntime
import skimage.data
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from skimage.transform import SimilarityTransform

import face_networks
import golden

FOLDER = golden.GOLDENS / "faces"
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
SCRFD_SIDE, SCRFD_SCORE, SCRFD_OVERLAP = 640, 0.5, 0.4
YUNET_SCORE, YUNET_OVERLAP = 0.6, 0.3


def photos():
    face = Image.fromarray(skimage.data.astronaut()).crop((96, 0, 352, 224))
    small = face.crop((40, 24, 208, 192)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((96, 96), Image.LANCZOS)
    two = Image.new("RGB", (288, 176), (120, 130, 140))
    two.paste(face.crop((32, 16, 224, 192)), (96, 0))
    two.paste(small, (0, 40))
    turned = face.rotate(25, Image.BICUBIC, fillcolor=(90, 90, 90)).crop((32, 16, 224, 208))
    nobody = Image.fromarray(skimage.data.coffee()).crop((200, 100, 328, 228))
    return {"face": face, "two": two, "turned": turned, "nobody": nobody}


def save(name, picture):
    path = FOLDER / f"{name}.webp"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, lossless=True, quality=100, method=6)


def aligned(picture, points):
    transform = SimilarityTransform.from_estimate(points.astype(np.float64), TEMPLATE.astype(np.float64))
    matrix = transform.params[:2]
    return cv2.warpAffine(np.asarray(picture), matrix, (112, 112), borderValue=0.0), matrix


def by_mtcnn(detector, name, picture):
    boxes, scores, points = detector.detect(picture, landmarks=True)
    if boxes is None:
        return {f"{name}.boxes": torch.zeros(0, 4)}
    crop, matrix = aligned(picture, points[0])
    save(f"crops/{name}", Image.fromarray(crop))
    found = {"boxes": boxes, "scores": scores, "points": points, "transform": matrix}
    return {f"{name}.{key}": np.asarray(value, np.float64) for key, value in found.items()}


def session(name):
    return onnxruntime.InferenceSession(str(face_networks.FOLDER / f"{name}.onnx"), providers=["CPUExecutionProvider"])


def kept(boxes, scores, overlap):
    """InsightFace's greedy suppression, with pixels counted at both ends."""
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    order, keep = scores.argsort(kind="stable")[::-1], []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = np.prod(np.maximum(0.0, high - low + 1), axis=1)
        order = rest[common / (areas[best] + areas[rest] - common) <= overlap]
    return keep


def by_scrfd(picture):
    width, height = picture.size
    scale = min(SCRFD_SIDE / width, SCRFD_SIDE / height)
    size = (int(width * scale), int(height * scale))
    canvas = np.zeros((SCRFD_SIDE, SCRFD_SIDE, 3), np.float32)
    canvas[: size[1], : size[0]] = cv2.resize(np.asarray(picture).astype(np.float32), size)
    network = session("scrfd")
    outputs = network.run(None, {"input.1": ((canvas - 127.5) / 128.0).transpose(2, 0, 1)[None]})
    found = []
    for index, stride in enumerate((8, 16, 32)):
        scores, boxes, points = outputs[index][:, 0], outputs[index + 3] * stride, outputs[index + 6] * stride
        side = SCRFD_SIDE // stride
        cells = np.stack(np.mgrid[:side, :side][::-1], axis=-1).reshape(-1, 2).astype(np.float32) * stride
        centres = np.repeat(cells, 2, axis=0)
        corners = np.concatenate([centres - boxes[:, :2], centres + boxes[:, 2:]], axis=1)
        landmarks = centres[:, None] + points.reshape(-1, 5, 2)
        chosen = scores >= SCRFD_SCORE
        found.append((scores[chosen], corners[chosen] / scale, landmarks[chosen] / scale))
    scores, boxes, points = (np.concatenate(parts) for parts in zip(*found))
    keep = kept(boxes, scores, SCRFD_OVERLAP)
    return {"scrfd.scores": scores[keep], "scrfd.boxes": boxes[keep], "scrfd.points": points[keep]}


def by_yunet(picture):
    detector = cv2.FaceDetectorYN.create(
        str(face_networks.FOLDER / "yunet.onnx"), "", picture.size, YUNET_SCORE, YUNET_OVERLAP, 5000
    )
    _, rows = detector.detect(np.asarray(picture)[:, :, ::-1].copy())
    boxes = rows[:, :4].copy()
    boxes[:, 2:] += boxes[:, :2]
    return {"yunet.boxes": boxes, "yunet.points": rows[:, 4:14].reshape(-1, 5, 2), "yunet.scores": rows[:, 14]}


def main():
    golden.hold_still()
    face_networks.main([])
    detector = MTCNN(keep_all=True)
    tensors, pictures = {}, photos()
    for name, picture in pictures.items():
        save(f"photos/{name}", picture)
        tensors |= by_mtcnn(detector, name, picture)
    tensors |= by_scrfd(pictures["face"].crop((32, 0, 256, 224))) | by_yunet(pictures["face"])
    crop = np.asarray(Image.open(FOLDER / "crops" / "face.webp")).astype(np.float32)
    pixels = ((crop - 127.5) / 127.5).transpose(2, 0, 1)[None]
    tensors["embedding"] = session("w600k_tiny").run(None, {"input.1": pixels})[0][0]
    golden.write("faces/faces", tensors, {"photos": list(pictures)})


if __name__ == "__main__":
    main()
