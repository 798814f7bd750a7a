// Batch normalization and local response normalization.
#pragma once

#include "kernels/kernels.hpp"

namespace npconv {

/// x (n, c, plane): every channel is normalised over images and pixels.
struct ChannelShape {
    index_t n, c, plane;
};

/// The mean and the variance (over n*plane, not one less) of each channel.
template <class T>
void batch_moments(const ChannelShape& shape, const T* x, T* mean, T* var);

/// y = (x - mean) / sqrt(var + epsilon) * weight + bias; weight and bias may be null.
template <class T>
void batch_norm_forward(const ChannelShape& shape, const T* x, const T* mean, const T* var, const T* weight,
                        const T* bias, double epsilon, T* y);

/// The gradients; with `training`, mean and var are functions of x. dx may be null.
template <class T>
void batch_norm_backward(const ChannelShape& shape, const T* dy, const T* x, const T* mean, const T* var,
                         const T* weight, double epsilon, bool training, T* dx, T* dweight, T* dbias);

struct ResponseNorm {
    index_t size;  ///< neighbouring channels that are looked at: size/2 before, the others from the channel itself on
    double alpha, beta, k;
};

/// y = x * d^-beta with d = k + alpha/size * (sum of x^2 over the neighbouring channels).
template <class T>
void local_response_norm_forward(const ChannelShape& shape, const ResponseNorm& norm, const T* x, T* y);

template <class T>
void local_response_norm_backward(const ChannelShape& shape, const ResponseNorm& norm, const T* dy, const T* x,
                                  const T* y, T* dx);

}  // namespace npconv
