"""The only defaults of the package.

Every setting stands here once, as a field of a frozen dataclass with its description, range and whether it may change
while the node runs.  ROS parameters (`ros/parameters.py`), YAML presets (`config/*.yaml`) and command-line flags
(`cli.py`) are made from these fields and state no default of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from dkn_ros.settings import Settings, setting

PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
TOPIC_NAME = r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*"


@dataclass(frozen=True)
class PipelineConfig(Settings):
    """Settings of `pipeline.Pipeline`."""

    LIMITS = (("min_depth", "max_depth"),)

    weights: str = setting("fdkn", "name of a card in weights/cards.yaml, or path of a .safetensors file")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N; auto takes CUDA where there is one")
    precision: str = setting(
        "auto",
        "number type of the feature towers; auto: bfloat16 where that is faster, else float32, or on a GPU float16; "
        "int8: on a CPU faster, with more rounding",
        choices=PRECISIONS,
        live=True,
    )
    fallback: bool = setting(
        True, "go on with the CPU where the GPU cannot be used or fails, and say so; false: that is an error"
    )
    threads: int = setting(
        0, "CPU threads of the network; 0 takes every core, less one where there are more than two", 0, 256
    )
    min_depth: float = setting(
        0.0, "nearer input depth (metres) is invalid; 0 is always invalid", 0.0, 1000.0, live=True
    )
    max_depth: float = setting(0.0, "farther input depth (metres) is invalid; 0: no limit", 0.0, 1000.0, live=True)
    fill_distance: float = setting(
        32.0, "how far from valid input depth holes are filled, in pixels of the colour image", 0.0, 10000.0, live=True
    )
    flying_pixels: float = setting(
        0.0,
        "remove pixels that float between two surfaces, such as 0.03: so far, in parts of the depth, from both; 0: off",
        0.0,
        0.5,
        live=True,
    )
    depth_resolution: str = setting(
        "auto",
        "depth at a size above its resolution; auto finds out if it is replicated or sparse, full: never, or the ratio",
        number=True,
    )
    depth_covers: str = setting(
        "auto",
        "what the depth covers of the colour image: all, top; auto: top for 4:3 depth with 5:4 colour, else all",
        choices=("auto", "all", "top"),
        live=True,
    )
    align_colour: bool = setting(
        True,
        "where their edges say that both are not registered, move the colour for the network; the depth stays",
        live=True,
    )


@dataclass(frozen=True)
class NodeConfig(Settings):
    """Settings of `dkn_node` besides those of its pipeline."""

    LIMITS = (("preview_near", "preview_far"),)

    autostart: bool = setting(
        True, "configure and activate at start; false: when told to, as a managed (lifecycle) node is", fixed=True
    )
    lazy: bool = setting(
        True, "without a subscription to an output image, do nothing and leave the camera's topics", live=True
    )
    slop: float = setting(
        0.0,
        "largest stamp difference of a pair in seconds; 0: half the measured period around the measured offset",
        0.0,
        10.0,
        live=True,
    )
    pairing: str = setting(
        "nearest",
        "nearest: nearest stamps, the offset between the topics taken out; message_filters: as ApproximateTime pairs",
        choices=("nearest", "message_filters"),
    )
    queue_size: int = setting(10, "images of each topic that wait for their partner", 1, 1000)
    input_reliability: str = setting(
        "best_effort", "QoS of the image subscriptions", choices=("best_effort", "reliable")
    )
    output_reliability: str = setting("reliable", "QoS of depth/upsampled", choices=("best_effort", "reliable"))
    output_depth: int = setting(1, "queue length (QoS history depth) of depth/upsampled", 1, 100)
    camera_info_topic: str = setting(
        "depth/camera_info",
        "topic name for the intrinsics of depth/upsampled, relative to the namespace or from /",
        pattern=TOPIC_NAME,
    )
    output_encoding: str = setting(
        "32FC1", "32FC1: metres, NaN invalid; 16UC1: millimetres, 0 invalid", choices=("32FC1", "16UC1"), live=True
    )
    preview_near: float = setting(
        0.0, "metres of the first colour of depth/preview; 0: what the frames show", 0.0, 1000.0, live=True
    )
    preview_far: float = setting(
        0.0, "metres of the last colour of depth/preview; 0: what the frames show", 0.0, 1000.0, live=True
    )
    compressed_format: str = setting(
        "png", "of compressedDepth; png: smaller, rvl: six times faster", choices=("png", "rvl"), live=True
    )
    compressed_max_depth: float = setting(
        10.0, "farther depth (metres) is not carried by compressedDepth", 0.1, 1000.0, live=True
    )
    compressed_quantization: float = setting(
        100.0,
        "how finely compressedDepth codes metres; 100 cannot carry what is nearer than 15 cm, 200 than 58 cm",
        1.0,
        1000.0,
        live=True,
    )
    warm_up_width: int = setting(
        640, "width of the colour image the network is warmed up for at start; 0: none", 0, 16384
    )
    warm_up_height: int = setting(480, "height of the colour image the network is warmed up for at start", 0, 16384)
    warm_up_factor: int = setting(4, "ratio of colour to depth size at that warm-up", 1, 64)
    frames_at_once: int = setting(
        0,
        "frames in work at once on a CPU, each on its share of the threads; 0: 2 where 30 Hz are held by it, else 1",
        0,
        8,
    )
    early_guidance: bool = setting(
        True, "look at a colour image before its depth comes, where the images before it found theirs", live=True
    )
    registration: str = setting(
        "auto",
        "bring depth of another camera into the colour image; auto: where their frames (or camera_infos') differ",
        choices=("auto", "on", "off"),
    )
    extrinsics: str = setting(
        "tf",
        "where the depth camera is in the colour camera's optical frame: tf asks TF; or x y z (metres) qx qy qz qw",
    )
    rectified: str = setting(
        "none",
        "images that are rectified, so that P of their camera_info describes them: none, rgb, depth or both",
        choices=("none", "rgb", "depth", "both"),
    )
    idle_seconds: float = setting(
        2.0, "without a pair for so long, the diagnostics call the node idle", 0.1, 3600.0, live=True
    )
    min_rate: float = setting(
        0.0, "the diagnostics warn of fewer output images a second while pairs come; 0: never", 0.0, 1000.0, live=True
    )
    max_latency: float = setting(
        0.0,
        "the diagnostics warn of more seconds from pair to output (95th percentile); 0: never",
        0.0,
        3600.0,
        live=True,
    )
    max_difference: float = setting(
        0.0, "the diagnostics warn of more seconds between the stamps of a pair; 0: never", 0.0, 3600.0, live=True
    )


@dataclass(frozen=True)
class CameraConfig(Settings):
    """Settings of the simulated camera `sim_camera`."""

    source: str = setting(
        "synthetic", "synthetic: moving procedural scenes; or a folder with NAME_rgb.png and NAME_depth.png"
    )
    width: int = setting(640, "width of the synthetic colour image", 32, 4096)
    height: int = setting(480, "height of the synthetic colour image", 32, 4096)
    focal_length: float = setting(
        0.0, "focal length of the synthetic colour camera over the width of its image; 0: the scene's own", 0.0, 10.0
    )
    factor: int = setting(8, "how many times smaller the depth is than the colour, per axis", 1, 16)
    depth_width: int = setting(0, "width of the synthetic depth image; 0: by factor", 0, 4096)
    depth_height: int = setting(0, "height of the synthetic depth image; 0: by factor", 0, 4096)
    depth_focal_length: float = setting(
        0.0, "as focal_length, of a depth camera in a place of its own; 0: as the colour camera's", 0.0, 10.0
    )
    extrinsics: str = setting(
        "",
        "where the depth camera is in the colour camera's optical frame: x y z (metres) qx qy qz qw; empty: there",
    )
    method: str = setting(
        "area",
        "how the depth is made smaller; area: a sensor's pixel sees the mean of its block; nearest: every n-th pixel",
        choices=("area", "nearest", "bicubic"),
    )
    registered: str = setting(
        "",
        "how smaller depth is brought back to the colour image's size: replicate, sparse; empty: not",
        choices=("", "replicate", "sparse"),
    )
    rate: float = setting(30.0, "frames a second", 0.1, 1000.0)
    depth_delay: float = setting(
        0.0, "seconds after its colour image that a depth image is sent, less than a period", 0.0, 10.0
    )
    seed: int = setting(27, "seed of the synthetic scene and of the camera model", 0)
    frames: int = setting(24, "rendered frames of the synthetic scene, played forth and back", 1, 10000)
    count: int = setting(0, "stop after so many frames; 0: go on until told to stop", 0)
    rgb_encoding: str = setting("rgb8", "colour encoding", choices=("rgb8", "bgr8", "rgba8", "bgra8"))
    encoding: str = setting("16UC1", "depth encoding", choices=("16UC1", "32FC1"))
    frame_id: str = setting("camera_rgb_optical_frame", "frame of the colour image")
    depth_frame_id: str = setting("", "frame of the depth image; empty: that of the colour image")
    empty_header: bool = setting(
        False, "colour images go out with stamp 0 and no frame, their camera_info with stamp 0"
    )
    reliability: str = setting("reliable", "QoS of the images", choices=("best_effort", "reliable"))
    queue_depth: int = setting(5, "queue length (QoS history depth) of the images", 1, 100)
    truth_every: int = setting(
        5, "publish the true depth of about one frame in n on truth/image, if subscribed; 0: never", 0
    )
    wait: bool = setting(False, "send nothing until somebody subscribes to both images")


@dataclass(frozen=True)
class DemoConfig(Settings):
    """Settings of `dkn demo`."""

    source: str = setting("synthetic", "synthetic, or a folder with NAME_rgb.png and NAME_depth.png")
    seconds: float = setting(10.0, "how long the camera sends", 1.0, 3600.0)
    factor: int = setting(8, "how many times smaller the depth is than the colour, per axis", 1, 16)
    method: str = setting("area", "how the depth is made smaller", choices=("area", "nearest", "bicubic"))
    rate: float = setting(30.0, "frames a second of the camera", 0.1, 1000.0)
    depth_delay: float = setting(CameraConfig.depth_delay, "seconds from a colour image to its depth image", 0.0, 10.0)
    early_guidance: bool = setting(NodeConfig.early_guidance, "look at a colour image before its depth comes")
    frames_at_once: int = setting(
        NodeConfig.frames_at_once, "frames in work at once on a CPU; 0: as it finds best", 0, 8
    )
    weights: str = setting("fdkn", "name of a card, or path of a .safetensors file")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    precision: str = setting("auto", "number type of the feature towers", choices=PRECISIONS)


@dataclass(frozen=True)
class BagConfig(Settings):
    """Settings of `dkn bag`."""

    preset: str = setting("", "camera family whose topics are taken, such as kinect; empty: those that the bag has")
    rgb: str = setting("", "topic of the colour image; empty: of the preset, or the only one that the bag has")
    depth: str = setting("", "topic of the depth image; empty: of the preset, or the only one that the bag has")
    camera_info: str = setting("", "camera_info of the colour image; empty: of the preset, or the one beside the image")
    depth_info: str = setting("", "camera_info of the depth image; empty: of the preset, or the one beside the image")
    registration: str = setting(
        NodeConfig.registration,
        "bring depth of another camera into the colour image; auto: as the preset says, or where frames differ",
        choices=("auto", "on", "off"),
    )
    extrinsics: str = setting(
        NodeConfig.extrinsics,
        "where the depth camera is in colour's frame: tf asks preset, then bag; or x y z (metres) qx qy qz qw",
    )
    rectified: str = setting(
        NodeConfig.rectified,
        "images that are rectified, so that P of their camera_info describes them: none, rgb, depth or both",
        choices=("none", "rgb", "depth", "both"),
    )
    output: str = setting(
        "/depth/upsampled",
        "topic to write, names of letters, digits and _ behind one / each; its camera_info goes beside it",
        pattern=TOPIC_NAME,
    )
    encoding: str = setting(
        NodeConfig.output_encoding,
        "32FC1: metres, NaN invalid; 16UC1: millimetres, 0 invalid",
        choices=("32FC1", "16UC1"),
    )
    slop: float = setting(
        NodeConfig.slop, "largest stamp difference of a pair in seconds; 0: measured, as by the node", 0.0, 10.0
    )
    queue_size: int = setting(NodeConfig.queue_size, "images of each topic that wait for their partner", 1, 1000)
    storage: str = setting("same", "format of the new bag; same: as the old one", choices=("same", "mcap", "sqlite3"))
    start: float = setting(0.0, "seconds of the bag to leave out at its beginning", 0.0, 1e9)
    duration: float = setting(0.0, "seconds of the bag to take from there; 0: all", 0.0, 1e9)


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """A training recipe: `dkn train CONFIG` reads it from YAML, the card of the trained weights stores it."""

    name: str = setting("fdkn", "name of the weights")
    model: str = setting("fdkn", "network class, see models/__init__.py")
    options: dict = setting({}, "options of the network, see its Options class")
    seed: int = setting(0, "seed of initial weights, scenes and crops", 0)
    start: str = setting("", "weights to begin with, a name or a .safetensors file; empty: random ones")
    teacher: str = setting("", "weights whose towers it learns to be like at first, see models/teacher.py; empty: none")
    taught: float = setting(0.25, "share of the steps in which it learns from the teacher, if there is one", 0.0, 1.0)
    scenes: int = setting(600, "procedural scenes that are rendered for training", 1)
    iterations: int = setting(12000, "optimiser steps", 1)
    batch: int = setting(12, "crops a step", 1)
    crop: int = setting(96, "side of a crop in pixels; a multiple of 48 fits every ratio that is drawn", 48)
    learning_rate: float = setting(2e-3, "of Adam, after the warm-up; falls to a hundredth along a cosine", 0.0)
    warm_up: int = setting(200, "steps over which the learning rate rises", 0)
    square_weight: float = setting(0.0, "weight of the squared error in the loss, beside the absolute error", 0.0)
    soft_edges: float = setting(0.0, "share of the crops whose true depth has soft edges", 0.0, 1.0)
    rough_truth: float = setting(
        0.0, "share of the crops whose true depth has wandering outlines and waves, as sensors record it", 0.0, 1.0
    )
    misregistered: float = setting(0.2, "share of the crops whose colour lies beside its depth", 0.0, 1.0)
    noiseless: float = setting(0.5, "share of the crops whose camera measures without noise", 0.0, 1.0)
    stages: dict = setting({}, "share of the steps -> settings that change there, such as {0.4: {square_weight: 3.0}}")
    revive_every: int = setting(
        0, "steps after which channels that never fire begin anew, up to two thirds of the training; 0: never", 0
    )
    average: float = setting(0.999, "decay of the running average of the weights, which is what is saved", 0.0, 1.0)
    misregistration: float = setting(4.0, "largest shift between colour and depth, pixels", 0.0)
    precision: str = setting("float32", "number type of the convolutions", choices=("float32", "bfloat16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    workers: int = setting(
        0, "processes that draw crops ahead; 0: on a GPU one a core, less one; on a CPU a thread does it", 0, 256
    )
    checkpoint_every: int = setting(500, "steps between checkpoints and validations", 1)
    licence: str = setting("Apache-2.0", "licence of the trained weights")
