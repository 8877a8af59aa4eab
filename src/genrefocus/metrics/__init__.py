"""How good an image is, and how well its blur follows the requested one.

One file per metric, each with a pure function of images and the :class:`~.info.MetricInfo` that
describes it. Against a target:

- ``psnr``     peak signal-to-noise ratio in dB, capped
- ``ssim``     structural similarity, 11 x 11 Gaussian window
- ``lpips``    learned perceptual distance, AlexNet or VGG16 trunk
- ``dists``    structure and texture similarity, VGG16 trunk

- ``clip``     CLIP-I, cosine of CLIP's image embeddings

Without a target:

- ``no_reference``  MUSIQ, MANIQA, CLIP-IQA and CLIP-IQA+ through pyiqa

Against the control signal:

- ``lvcorr``       does blur grow with K: negated correlation of K with the Laplacian variance
- ``blur_radius``  radius measured in the output against the requested one, by bin
- ``focus_plane``  where the output is sharpest against the requested distance
- ``in_focus``     PSNR, SSIM and LPIPS inside the in-focus region
- ``bleeding``     colour that bleeds across depth edges

``registry`` lists every metric of one image by name. ``tally`` gathers the values of any metric
over batches and ranks and counts failures. ``pairs`` says what a valid image pair is; ``precision``
makes every metric compute in float32. ``trunks`` fills TORCH_HOME with the networks that LPIPS and
DISTS need. ``held_out_loss`` is the loss of training.
"""
