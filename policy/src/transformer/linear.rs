//! A linear layer of open weights: y = x·Wᵀ.

use crate::{
    kernels::{matrix::Matrix, product},
    optimizer::Gradients,
};

/// One weight, `[out, in]`, ready to be multiplied.
pub(crate) struct Linear<'a> {
    name: &'a str,
    weight: Matrix<'a>,
}

impl<'a> Linear<'a> {
    pub(crate) fn new(name: &'a str, weight: Matrix<'a>) -> Linear<'a> {
        Linear { name, weight }
    }

    /// Width of what it returns.
    pub(crate) fn n_out(&self) -> usize {
        self.weight.rows
    }

    /// x·Wᵀ, `[rows, out]`. Backward needs x.
    pub(crate) fn forward(&self, x: &Matrix<'_>) -> Vec<f32> {
        let mut y = vec![0.0; x.rows * self.n_out()];
        product::forward(x, &self.weight, &mut y, false);
        y
    }

    /// y += x·Wᵀ: the layers that write into the residual stream.
    pub(crate) fn add_forward(&self, x: &Matrix<'_>, y: &mut [f32]) {
        product::forward(x, &self.weight, y, true);
    }

    /// dW += gᵀ·x, into the gradients.
    pub(crate) fn backward_weight(&self, x: &Matrix<'_>, g: &Matrix<'_>, gradients: &mut Gradients) {
        product::weight_gradient(g, x, gradients.slot(self.name, self.weight.rows * self.weight.cols));
    }

    /// g·W, `[rows, in]`.
    pub(crate) fn backward_input(&self, g: &Matrix<'_>) -> Vec<f32> {
        let mut dx = vec![0.0; g.rows * self.weight.cols];
        product::input_gradient(g, &self.weight, &mut dx, false);
        dx
    }

    /// dx += g·W, for a second layer that read the same x.
    pub(crate) fn add_backward_input(&self, g: &Matrix<'_>, dx: &mut [f32]) {
        product::input_gradient(g, &self.weight, dx, true);
    }
}
