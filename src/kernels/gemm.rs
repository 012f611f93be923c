//! A safe face for the matrix product of the `gemm` crate.

use super::threads;
use std::marker::PhantomData;

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

    pub(super) fn rows(&self) -> usize {
        self.rows
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
    let (m, n) = (a.rows, b.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= dst_stride || m == 1, "destination rows overlap");
    assert!((m - 1) * dst_stride + n <= dst.len(), "the destination is too short");
    // SAFETY: by the assertions above, the m rows of n numbers lie inside dst and apart from each other, and dst is
    // borrowed mutably.
    #[allow(unsafe_code)]
    unsafe {
        product_at(dst.as_mut_ptr(), dst_stride, onto, scale, a, b);
    }
}

/// Some columns of a matrix: a part of each row, so that tasks on several threads can write different columns.
pub(super) struct Columns<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is what `&mut [f32]` is, but for the gaps between the rows' parts, which it does not reach.
#[allow(unsafe_code)]
unsafe impl Send for Columns<'_> {}

impl<'a> Columns<'a> {
    /// All `columns` columns of a matrix without gaps.
    pub(super) fn of(data: &'a mut [f32], columns: usize) -> Self {
        let rows = data.len() / columns.max(1);
        Self { first: data.as_mut_ptr(), rows, columns, row_stride: columns, matrix: PhantomData }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The columns before `at`, and the others.
    pub(super) fn split_at(self, at: usize) -> (Self, Self) {
        assert!(at <= self.columns, "there are not so many columns");
        let right = Self { first: self.first.wrapping_add(at), columns: self.columns - at, ..self };
        (Self { columns: at, ..self }, right)
    }

    /// `self += a b`.
    pub(super) fn add_product(&mut self, a: Matrix<'_>, b: Matrix<'_>) {
        assert_eq!((a.rows, b.columns), (self.rows, self.columns), "the product has another shape");
        // SAFETY: `of` took a matrix of these rows that it borrowed mutably, and `split_at` gives no column to two.
        #[allow(unsafe_code)]
        unsafe {
            product_at(self.first, self.row_stride, Onto::Sum, 1.0, a, b);
        }
    }
}

/// [`product`], to wherever `dst` points.
///
/// # Safety
///
/// For each row of `a`, starting `dst_stride` apart, there are as many numbers at `dst` as `b` has columns. They are
/// valid for reading and writing, and nothing else reads or writes them meanwhile.
#[allow(unsafe_code)]
unsafe fn product_at(dst: *mut f32, dst_stride: usize, onto: Onto, scale: f32, a: Matrix<'_>, b: Matrix<'_>) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner dimensions differ");
    assert!(a.fits() && b.fits(), "a matrix reaches past its slice");
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the assertions above keep every access of a and b inside its slice; the caller answers for dst, which as
    // mutable memory cannot be that of a or b.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
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
