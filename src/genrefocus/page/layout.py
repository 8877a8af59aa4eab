"""What is on the page, in Gradio."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from genrefocus.data.images import IMAGE_SUFFIXES
from genrefocus.page.controls import F_NUMBERS, NETWORKS, RENDERER, SHAPES
from genrefocus.page.session import Service

PULL = (
    "*Make the pull* goes from everything sharp to the blur that is set. For a pull of "
    "focus press *Start here*, then focus where it ends."
)

_OWN_SIZE = "own size"
_SIZES = (256, 512, 1024, 2048)
_KEPT_SECONDS = 4 * 3600


class Layout:
    """The components of the page; ``blocks`` holds them all.

    Args:
        service: what photographs are refocused with.
        examples: files of photographs with the files of their depth.
        about: the networks in one line.
    """

    def __init__(
        self, service: Service, examples: Sequence[tuple[Path, Path]] = (), about: str = ""
    ) -> None:
        self.service, self.examples = service, examples
        kept = (600, _KEPT_SECONDS)
        with gr.Blocks(
            title="genrefocus", analytics_enabled=False, delete_cache=kept, fill_width=True
        ) as blocks:
            self.session = gr.State(time_to_live=_KEPT_SECONDS)
            gr.Markdown(f"## Refocus a photograph\n{about}")
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=300):
                    self._build_input()
                    self._build_optics()
                    self._build_words()
                with gr.Column(scale=2, min_width=320):
                    self._build_preview()
                with gr.Column(scale=2, min_width=320):
                    self._build_result()
            self.controls = [self.f_number, self.k, self.focal, self.sensor]
            self.controls += [self.shape, self.own_shape]
        self.blocks = blocks

    def _build_input(self) -> None:
        self.photo = gr.File(
            label="Photograph", file_types=list(IMAGE_SUFFIXES), height=140, elem_id="photo"
        )
        self.gallery = gr.Gallery(
            [str(photo) for photo, _ in self.examples],
            label="Examples, simulated",
            columns=4,
            height=110,
            allow_preview=False,
            object_fit="cover",
            buttons=[],
            visible=bool(self.examples),
            elem_id="examples",
        )
        estimated = self.service.estimator is not None
        text = "Own depth, .npy of metres" if estimated else "Depth, .npy of metres"
        self.depth = gr.File(label=text, file_types=[".npy"], height=140, elem_id="depth-file")

    def _build_optics(self) -> None:
        with gr.Group():
            text = "Sharp at, metres"
            self.distance = gr.Number(label=text, info="or click on the preview", minimum=0)
            given = self.service.subject is not None
            self.on_subject = gr.Button("Focus on the subject", visible=given, size="sm")
            text = "small: much blur; of the lens below"
            self.f_number = gr.Slider(
                *F_NUMBERS,
                2.8,
                step=0.1,
                label="F-number",
                info=text,
                interactive=False,
                buttons=[],
            )
            text = "radius in px of the photograph, 1/m away from the focus"
            self.k = gr.Slider(0, 100, 0, label="Blur K", info=text, buttons=[], elem_id="k")
        with gr.Accordion("Lens", open=False):
            self.lens_note = gr.Markdown("By the EXIF of the photograph, or as you state it.")
            self.focal = gr.Number(label="Focal length, mm (real)", minimum=0)
            self.sensor = gr.Number(label="Sensor, long side, mm (36: full frame)", minimum=0)
        with gr.Accordion("Aperture shape", open=False):
            self.shape = gr.Dropdown(list(SHAPES), value="round", label="Shape")
            text = "or an image of the opening, white on black"
            self.own_shape = gr.Image(
                label=text, type="filepath", sources=["upload"], height=140, buttons=[]
            )

    def _build_words(self) -> None:
        deblur, bokeh = self.service.prompts
        with gr.Accordion("Words for the networks", open=False):
            text = "the words of a blurred sign can help"
            asked = self.service.pipeline.deblur is not None
            self.deblur_prompt = gr.Textbox(
                deblur, label="DeblurNet", info=text, interactive=asked, max_lines=2
            )
            self.bokeh_prompt = gr.Textbox(bokeh, label="BokehNet", max_lines=2)

    def _build_preview(self) -> None:
        self.preview = gr.Image(
            label="Preview: click on what shall be sharp",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="preview",
        )
        text = "Open a photograph, or take an example, and click on what shall be sharp."
        self.note = gr.Markdown(text, elem_id="note")
        self.depth_image = gr.Image(
            label="Depth: near is bright, the ring marks the focus",
            interactive=False,
            buttons=[],
            elem_id="depth",
        )
        self.depth_note = gr.Markdown()

    def _build_result(self) -> None:
        self.result = gr.ImageSlider(
            label="Before and after", interactive=False, buttons=[], elem_id="result"
        )
        self.result_note = gr.Markdown(elem_id="result-note")
        with gr.Row():
            self.now = gr.Button("Refocus", variant="primary", min_width=100)
            self.download = gr.DownloadButton(
                "Download", interactive=False, min_width=100, elem_id="download"
            )
        with gr.Row():
            makers = [NETWORKS, RENDERER]
            self.maker = gr.Radio(makers, value=NETWORKS, label="Result by", scale=2)
            edge = self.service.long_edge or 0
            sizes = [(f"{n} px", n) for n in sorted({*_SIZES, edge} - {0})]
            self.size = gr.Dropdown(
                [*sizes, (_OWN_SIZE, 0)], value=edge, label="Long edge", min_width=100
            )
        self.follows = gr.Checkbox(True, label="Follow every change of focus and blur")
        with gr.Accordion("Pull of focus or aperture", open=False):
            self.pull_note = gr.Markdown(PULL)
            with gr.Row():
                self.start = gr.Button("Start here", min_width=100)
                self.make_pull = gr.Button("Make the pull", min_width=100)
            self.pull = gr.Image(label="Pull", interactive=False, buttons=[])
            self.pull_file = gr.DownloadButton("Download the pull", interactive=False)
