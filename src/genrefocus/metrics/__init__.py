"""How good an image is, and how well blur obeys K.

One file per metric, each with a pure function that gives one value per image and a thin
``torchmetrics.Metric`` that gathers those values over batches and ranks:

- ``psnr``     peak signal-to-noise ratio in dB, capped
- ``ssim``     structural similarity, 11 x 11 Gaussian window
- ``lpips``    learned perceptual distance, AlexNet or VGG16 trunk
- ``lvcorr``   does blur grow with K: negated correlation of K with the Laplacian variance

``pairs`` says what a valid image pair is and ``tally`` how values and failures are gathered.
``weights`` fills TORCH_HOME with the trunks that LPIPS and DISTS need on machines without a hub,
and ``verification`` checks them against documented figures.
"""
