"""How good an image is, and how well blur obeys what was asked for.

One file per metric, each with a pure function that gives one value per image and a thin
``torchmetrics.Metric`` that gathers those values over batches and ranks. Against a target:

- ``psnr``     peak signal-to-noise ratio in dB, capped
- ``ssim``     structural similarity, 11 x 11 Gaussian window
- ``lpips``    learned perceptual distance, AlexNet or VGG16 trunk
- ``dists``    structure and texture similarity, VGG16 trunk
- ``clip_similarity``  CLIP-I, cosine of CLIP's image embeddings

Without one:

- ``clip_iqa``      good photo or bad photo, by a transformers CLIP
- ``no_reference``  MUSIQ, MANIQA, CLIP-IQA and CLIP-IQA+ through pyiqa
- ``fid_kid``       FID and KID, of two large sets of images

Against the control signal:

- ``lvcorr``       does blur grow with K: negated correlation of K with the Laplacian variance
- ``blur_radius``  radius measured in the output against the radius asked for, by bin
- ``focus_plane``  where the output is sharpest against where it was asked to be
- ``in_focus``     PSNR, SSIM and LPIPS inside the in-focus region
- ``bleeding``     colour that bleeds across depth edges

``registry`` has every metric of one image by name. ``pairs`` says what a valid image pair is and
``tally`` how values and failures are gathered; through ``precision`` every metric computes in
float32. ``weights`` fills TORCH_HOME with the trunks that LPIPS and DISTS need on machines without
a hub, and ``verification`` checks them against documented figures. ``held_out_loss`` is that of
training.
"""
