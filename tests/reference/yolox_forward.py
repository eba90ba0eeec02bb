"""YOLOX-Nano's trunk and PAFPN as a plain function of a state dict, written from its description.

Nothing of the package is used: layers are named by their keys, borders are zero.
"""

import torch
import torch.nn.functional as F


def forward(state, x):
    """The five bottom-up maps and P3, P4, P5."""

    def conv(key, x, stride=1):
        weight, bias = state[f"{key}.conv.weight"], state[f"{key}.conv.bias"]
        padding = 2 if key == "backbone.stem" else weight.shape[-1] // 2
        groups = x.shape[1] // weight.shape[1]
        y = F.conv2d(x, weight, bias, stride, padding, groups=groups)
        return y * torch.sigmoid(y)

    def separable(key, x, stride=1):
        return conv(f"{key}.pconv", conv(f"{key}.dconv", x, stride))

    def csp(key, x, depth, shortcut):
        a, b = conv(f"{key}.conv1", x), conv(f"{key}.conv2", x)
        for index in range(depth):
            branch = separable(f"{key}.m.{index}.conv2", conv(f"{key}.m.{index}.conv1", a))
            a = a + branch if shortcut else branch
        return conv(f"{key}.conv3", torch.cat([a, b], 1))

    def pooling(key, x):
        x = conv(f"{key}.conv1", x)
        maxima = [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)]
        return conv(f"{key}.conv2", torch.cat([x, *maxima], 1))

    def twice(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    stem = conv("backbone.stem", x, 2)
    dark2 = csp("backbone.dark2.1", separable("backbone.dark2.0", stem, 2), 1, True)
    dark3 = csp("backbone.dark3.1", separable("backbone.dark3.0", dark2, 2), 3, True)
    dark4 = csp("backbone.dark4.1", separable("backbone.dark4.0", dark3, 2), 3, True)
    dark5 = pooling("backbone.dark5.1", separable("backbone.dark5.0", dark4, 2))
    dark5 = csp("backbone.dark5.2", dark5, 1, False)
    lateral = conv("lateral_conv0", dark5)
    middle = csp("C3_p4", torch.cat([twice(lateral), dark4], 1), 1, False)
    reduced = conv("reduce_conv1", middle)
    p3 = csp("C3_p3", torch.cat([twice(reduced), dark3], 1), 1, False)
    p4 = csp("C3_n3", torch.cat([separable("bu_conv2", p3, 2), reduced], 1), 1, False)
    p5 = csp("C3_n4", torch.cat([separable("bu_conv1", p4, 2), lateral], 1), 1, False)
    return [stem, dark2, dark3, dark4, dark5, p3, p4, p5]
