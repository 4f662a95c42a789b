//! A linear layer of open weights: y = x·Wᵀ, with an adapter beside it + s·(x·Aᵀ)·Bᵀ.

use crate::{
    kernels::{
        matrix::{Matrix, Precision},
        product,
    },
    optimizer::Gradients,
};

/// One weight, `[out, in]`, ready to be multiplied.
pub(crate) struct Linear<'a> {
    name: &'a str,
    weight: Matrix<'a>,
    /// Whether the weight itself learns.
    trains: bool,
    adapter: Option<LowRank<'a>>,
}

/// The adapter of one layer.
pub(crate) struct LowRank<'a> {
    /// Of A and B.
    pub(crate) names: [&'a str; 2],
    /// `[rank, in]`.
    pub(crate) a: Matrix<'a>,
    /// `[out, rank]`.
    pub(crate) b: Matrix<'a>,
    pub(crate) scale: f32,
    pub(crate) precision: Precision,
}

impl<'a> Linear<'a> {
    pub(crate) fn new(name: &'a str, weight: Matrix<'a>, trains: bool) -> Linear<'a> {
        Linear { name, weight, trains, adapter: None }
    }

    pub(crate) fn with_adapter(self, adapter: Option<LowRank<'a>>) -> Linear<'a> {
        Linear { adapter, ..self }
    }

    /// Width of what it returns.
    pub(crate) fn n_out(&self) -> usize {
        self.weight.rows
    }

    /// Result, `[rows, out]`. Backward needs x.
    pub(crate) fn forward(&self, x: &Matrix<'_>) -> Vec<f32> {
        let mut y = product::forward_new(x, &self.weight);
        self.add_adapter(x, &mut y);
        y
    }

    /// The same added to y: the layers that write into the residual stream.
    pub(crate) fn add_forward(&self, x: &Matrix<'_>, y: &mut [f32]) {
        product::forward(x, &self.weight, y, true);
        self.add_adapter(x, y);
    }

    fn add_adapter(&self, x: &Matrix<'_>, y: &mut [f32]) {
        if let Some(adapter) = &self.adapter {
            product::forward(&adapter.factor(&adapter.narrow(x)), &adapter.b, y, true);
        }
    }

    /// dW += gᵀ·x, dB += gᵀ·h, dA += dhᵀ·x, of what learns.
    pub(crate) fn backward_weight(&self, x: &Matrix<'_>, g: &Matrix<'_>, gradients: &mut Gradients) {
        if self.trains {
            add_gradient(self.name, &self.weight, x, g, gradients);
        }
        if let Some(adapter) = &self.adapter {
            let [a, b] = adapter.names;
            add_gradient(b, &adapter.b, &adapter.factor(&adapter.narrow(x)), g, gradients);
            add_gradient(a, &adapter.a, x, &adapter.factor(&adapter.narrow_gradient(g)), gradients);
        }
    }

    /// dx = g·W + dh·A, `[rows, in]`.
    pub(crate) fn backward_input(&self, g: &Matrix<'_>) -> Vec<f32> {
        let mut dx = product::input_gradient_new(g, &self.weight);
        self.add_adapter_gradient(g, &mut dx);
        dx
    }

    /// The same added to dx, for a second layer that read the same x.
    pub(crate) fn add_backward_input(&self, g: &Matrix<'_>, dx: &mut [f32]) {
        product::input_gradient(g, &self.weight, dx, true);
        self.add_adapter_gradient(g, dx);
    }

    fn add_adapter_gradient(&self, g: &Matrix<'_>, dx: &mut [f32]) {
        if let Some(adapter) = &self.adapter {
            product::input_gradient(&adapter.factor(&adapter.narrow_gradient(g)), &adapter.a, dx, true);
        }
    }
}

impl LowRank<'_> {
    /// h = s·x·Aᵀ, `[rows, rank]`.
    fn narrow(&self, x: &Matrix<'_>) -> Vec<f32> {
        self.scaled(product::forward_new(x, &self.a))
    }

    /// dh = s·g·B, `[rows, rank]`: the scale that belongs to h, where A and x see it.
    fn narrow_gradient(&self, g: &Matrix<'_>) -> Vec<f32> {
        self.scaled(product::input_gradient_new(g, &self.b))
    }

    fn scaled(&self, mut narrow: Vec<f32>) -> Vec<f32> {
        narrow.iter_mut().for_each(|x| *x *= self.scale);
        narrow
    }

    fn factor<'b>(&self, narrow: &'b [f32]) -> Matrix<'b> {
        Matrix::new(narrow, self.a.rows, self.precision)
    }
}

fn add_gradient(name: &str, weight: &Matrix<'_>, x: &Matrix<'_>, g: &Matrix<'_>, gradients: &mut Gradients) {
    let (dw, adds) = gradients.slot_to_fill(name, weight.rows * weight.cols);
    product::weight_gradient(g, x, dw, adds);
}
