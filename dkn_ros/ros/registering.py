"""Registration in the node: whether a pair's depth must be brought into the colour image, and by which calibration.

Nothing here imports ROS at module level: messages are objects with the fields of sensor_msgs/CameraInfo, and the
transform comes from parameters or from a function that asks TF.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dkn_ros.calibration import Calibration
from dkn_ros.config import BagConfig, NodeConfig
from dkn_ros.geometry import Transform
from dkn_ros.registration import Registration
from dkn_ros.ros.messages import ImageError, frame_of, scaled_camera_info, sent_size
from dkn_ros.ros.peers import remapping

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo

    from dkn_ros.ros.matchers import Pair


CAMERAS = {"rgb": "colour", "depth": "depth"}
"""Camera -> what a sentence calls it."""
REMEDY = "turn on the driver's registration, or set registration to off"
SAME_SHAPE = 0.02
"""Images whose ratios of width to height differ by no more have one shape: drivers cut off or add a few rows."""
Lookup = Callable[[str, str], "Transform | str"]
"""Target and source frame -> the transform, or a clause that says why there is none."""


def misshapen(info: CameraInfo, width: int, height: int) -> str:
    """What is wrong with a camera_info that is of an image of another shape than this one; empty if nothing is.

    One of another size describes an image that was resized since.  One of another shape is that of another mode of the
    camera, which sees another part of the scene, and no scaling makes it right.  Either may be rounded to a pixel.
    """
    sent_width, sent_height = sent_size(info)
    if min(sent_width, sent_height, width, height) <= 0:
        return ""  # which is another fault, see `scaled_camera_info`
    room = 1 + SAME_SHAPE + 1 / min(sent_width, sent_height, width, height)
    if 1 / room <= width * sent_height / (height * sent_width) <= room:
        return ""
    sizes = f"camera_info is of {sent_width}x{sent_height}, the image {width}x{height}, of another shape"
    return f"{sizes}; load the calibration of this mode"


def calibration_of(info: CameraInfo, width: int, height: int, rectified: bool = False) -> Calibration:
    """The calibration of an image of this size that `info` describes: K and D, or P of an image that is rectified.

    A driver that sends rectified images with D of zeros and K = P needs no `rectified`.  R is not looked at: of one
    camera it is the identity; of a stereo camera the image's frame is that of the rectified one.
    Raises ValueError where `info` is not calibrated, and ImageError where it has no size or that of another shape.
    """
    scaled = scaled_camera_info(info, width, height)
    wrong = misshapen(info, width, height)
    if wrong:
        raise ImageError("calibration", wrong)
    if rectified:
        p = scaled.p
        if not any(p):
            wanted = "load a calibration that has P, or set rectified to none if the image is not rectified"
            raise ValueError(f"projection matrix P is all 0, which means not calibrated for rectified images; {wanted}")
        return Calibration(width, height, (p[0], p[1], p[2], p[4], p[5], p[6], p[8], p[9], p[10]), (), "plumb_bob")
    return Calibration(width, height, tuple(scaled.k), tuple(scaled.d), scaled.distortion_model)


class Registering:
    """Says how depth comes into the colour image where that is needed and can be done; for one thread at a time.

    mode: "auto" registers where both images or their camera_infos name frames and these differ; "on" always; "off"
    never.
    extrinsics: used in place of TF if given.  lookup: asks TF.  rectified: of none, rgb, depth or both, see
    `calibration_of`.  resolve: makes the names of topics those that are listened to; None: in a bag.
    """

    def __init__(
        self,
        mode: str,
        extrinsics: Transform | None,
        lookup: Lookup,
        rectified: str = "none",
        resolve: Callable[[str], str] | None = None,
    ) -> None:
        self._mode, self._extrinsics, self._lookup, self._resolve = mode, extrinsics, lookup, resolve
        self._rectified = {camera: rectified in (camera, "both") for camera in ("rgb", "depth")}
        self._made: tuple[tuple[Any, ...], Registration] | None = None
        self._transforms: dict[tuple[str, str], Transform] = {}
        self.about = ""
        """What was done with the last depth, or why it was refused; empty if it was left as it came.

        For the diagnostics, which read it from another thread at any time: it is set once a frame, to what is true.
        """
        self.lacking: Sequence[str] = ()
        """Cameras without a camera_info, for lack of which the last depth was refused; set as `about` is."""

    def release(self) -> None:
        """Free what is kept for the next frame."""
        self._made = None

    def wanted(self, colour_frame: str, depth_frame: str) -> bool:
        """Whether depth of that frame is to be registered."""
        differ = bool(colour_frame and depth_frame and colour_frame != depth_frame)
        return self._mode == "on" or (self._mode == "auto" and differ)

    def registration(
        self,
        depth_size: tuple[int, ...],
        colour_size: tuple[int, ...],
        pair: Pair,
        infos: Mapping[str, CameraInfo],
    ) -> Registration | None:
        """What brings a pair's depth into the colour image, for `Pipeline.enhance`; None where it need not be.

        depth_size, colour_size: height and width of both images.
        pair: whose images name their frames, where camera_info does not: a driver that leaves the colour image's header
        empty fills that of its camera_info, which is in the same frame.  infos: of "rgb" and "depth", as far as they
        have come.
        The same object as long as nothing changes.
        Raises ImageError("calibration"), which says what to do, where the calibration is missing or unfit.
        """
        rgb, other = infos.get("rgb"), infos.get("depth")
        frames = plain_frame(frame_of(pair.rgb.header, rgb)), plain_frame(frame_of(pair.depth.header, other))
        wanted = self.wanted(*frames)
        # By what was read above: another thread may fill the mapping meanwhile.
        lacking = [camera for camera, info in zip(CAMERAS, (rgb, other), strict=True) if info is None]
        self.lacking = lacking if wanted else ()
        if not wanted:
            self.about = ""
            return None
        try:
            if rgb is None or other is None:
                raise self._absence(frames, lacking)
            found = self._registration(depth_size, colour_size, frames, (rgb, other))
        except ImageError as error:
            self.about = str(error)
            raise
        self.about = f"depth in {frames[1]!r} is registered to colour in {frames[0]!r}"
        return found

    def _registration(
        self,
        depth_size: tuple[int, ...],
        colour_size: tuple[int, ...],
        frames: tuple[str, str],
        infos: tuple[CameraInfo, CameraInfo],
    ) -> Registration:
        rgb, other = infos
        transform = self._extrinsics or self._transform(*frames)
        numbers = transform.rotation.tobytes(), transform.translation.tobytes()
        key = (depth_size, colour_size, frames, numbers, *(_key(info) for info in (rgb, other)))
        if self._made is None or self._made[0] != key:
            try:
                made = Registration(
                    calibration_of(other, depth_size[1], depth_size[0], self._rectified["depth"]),
                    calibration_of(rgb, colour_size[1], colour_size[0], self._rectified["rgb"]),
                    transform.rotation,
                    transform.translation,
                )
            except ValueError as error:
                raise self._refusal(frames, str(error)) from error
            self._made = key, made
        return self._made[1]

    def _transform(self, colour_frame: str, depth_frame: str) -> Transform:
        """From TF as it is now: a better calibration may be sent later.  What was known once lasts."""
        frames = colour_frame, depth_frame
        found = self._lookup(*frames)
        if not isinstance(found, str):
            self._transforms[frames] = found
        elif frames not in self._transforms:
            raise self._refusal(frames, f"no transform between them: {found}")
        return self._transforms[frames]

    def _absence(self, frames: tuple[str, str], lacking: Sequence[str]) -> ImageError:
        """Which camera_info has not come, from where, and how to take another one."""
        why = f"camera_info of {' and '.join(CAMERAS[camera] for camera in lacking)} has not come"
        if self._resolve is None:
            flags = " and ".join({"rgb": "--camera-info", "depth": "--depth-info"}[camera] for camera in lacking)
            return self._refusal(frames, why, f"name its topic with {flags}, or record with the driver's registration")
        names = [info_topic(camera) for camera in lacking]
        why += f" on {' and '.join(map(self._resolve, names))}"
        return self._refusal(frames, why, f"{remapping(names)}, or turn on the driver's registration")

    @staticmethod
    def _refusal(frames: tuple[str, str], why: str, remedy: str = REMEDY) -> ImageError:
        about = f"colour is in frame {frames[0]!r}, depth in {frames[1]!r}, and it cannot be registered"
        return ImageError("calibration", f"{about}: {why}; {remedy}")


def _key(info: CameraInfo) -> tuple[Any, ...]:
    """What of a CameraInfo makes the calibration."""
    roi = info.roi
    region = roi.x_offset, roi.y_offset, roi.width, roi.height, info.binning_x, info.binning_y
    return (info.width, info.height, tuple(info.k), tuple(info.d), tuple(info.p), info.distortion_model, *region)


def info_topic(camera: str) -> str:
    """The camera_info of "rgb" or "depth", as the node calls it."""
    return f"in/{camera}/camera_info"


def plain_frame(frame: str) -> str:
    """Old drivers write frames with a slash before them, which tf2 does not look for."""
    return frame.lstrip("/")


def registering_of(
    config: NodeConfig | BagConfig, lookup: Lookup, resolve: Callable[[str], str] | None = None
) -> Registering:
    """As parameters say; lookup, resolve: see `Registering`.  Raises ValueError for extrinsics that are none."""
    extrinsics = None if config.extrinsics == "tf" else Transform.parsed(config.extrinsics)
    return Registering(config.registration, extrinsics, lookup, config.rectified, resolve)


def tf_lookup(node: Any) -> Lookup:
    """Asks TF by a listener of `node`, which is made at the first question; says so where tf2_ros is missing."""
    made: list[Any] = []

    def lookup(target: str, source: str) -> Transform | str:
        try:
            import tf2_ros
            from rclpy.time import Time
        except ImportError:
            return "tf2_ros is not installed; set the parameter extrinsics"
        if not made:
            buffer = tf2_ros.Buffer()
            made.extend((buffer, tf2_ros.TransformListener(buffer, node)))
        try:
            found = made[0].lookup_transform(target, source, Time()).transform
        except tf2_ros.TransformException as error:
            said = " ".join(str(error).split()).rstrip(".")
            return f"{said} (or set the parameter extrinsics)"
        t, q = found.translation, found.rotation
        return Transform.of_numbers((t.x, t.y, t.z, q.x, q.y, q.z, q.w))

    return lookup
