//! A safe face for the matrix product of the `gemm` crate.

use super::threads;

/// A matrix inside a slice: element (r, c) is `data[r * row_stride + c * column_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other, without gaps.
    pub(super) fn dense(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows that start `row_stride` apart.
    pub(super) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transposed matrix, over the same data.
    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn fits(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.data.len()
    }
}

/// What happens to the values already in the destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    /// They are replaced.
    Nothing,
    /// The product is added to them.
    Sum,
}

/// `dst (+)= scale * a b`, with the rows of `dst` starting `dst_stride` apart.
pub(super) fn product(dst: &mut [f32], dst_stride: usize, onto: Onto, scale: f32, a: Matrix<'_>, b: Matrix<'_>) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner dimensions differ");
    assert!(a.fits() && b.fits(), "a matrix reaches past its slice");
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= dst_stride || m == 1, "destination rows overlap");
    assert!((m - 1) * dst_stride + n <= dst.len(), "the destination is too short");
    // SAFETY: the assertions above keep every access of a, b and dst inside its slice, dst is borrowed mutably and so
    // cannot alias a or b, and its rows do not overlap.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            onto == Onto::Sum,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            threads::parallelism(),
        );
    }
}
