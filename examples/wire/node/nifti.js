'use strict'

// A minimal reader of NIfTI-1 files, plain or gzip: one 3D volume of real numbers, its scaling and its affine.

const fs = require('node:fs')
const zlib = require('node:zlib')

const HEADER_BYTES = 348
const AXES = [0, 1, 2]

// Bytes per voxel and the DataView method that reads one, by the header's datatype.
const TYPES = {
  2: [1, 'getUint8'],
  4: [2, 'getInt16'],
  8: [4, 'getInt32'],
  16: [4, 'getFloat32'],
  64: [8, 'getFloat64'],
  256: [1, 'getInt8'],
  512: [2, 'getUint16'],
  768: [4, 'getUint32'],
}

// Read a file: shape [I, J, K]; data, Float32Array in C order (k fastest); affine, 16 numbers in row-major order, voxel index to RAS mm.
function readNifti(path) {
  const file = fs.readFileSync(path)
  const bytes = file[0] === 0x1f && file[1] === 0x8b ? zlib.gunzipSync(file) : file
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (bytes.length < HEADER_BYTES) throw new Error(`${path}: shorter than a NIfTI header`)
  const little = view.getInt32(0, true) === HEADER_BYTES
  if (!little && view.getInt32(0, false) !== HEADER_BYTES) throw new Error(`${path}: not a NIfTI-1 file`)
  const header = {
    int16: (offset) => view.getInt16(offset, little),
    float32: (offset) => view.getFloat32(offset, little),
  }
  return { ...readVoxels(path, view, header, little), affine: readAffine(path, header) }
}

function readVoxels(path, view, header, little) {
  const dimensions = header.int16(40)
  const extents = Array.from({ length: dimensions }, (_, axis) => header.int16(42 + 2 * axis))
  if (dimensions < 3 || extents.slice(3).some((n) => n !== 1)) throw new Error(`${path}: not one 3D volume: ${extents}`)
  const [I, J, K] = extents
  const [size, get] = TYPES[header.int16(70)] ?? []
  if (!size) throw new Error(`${path}: voxels of NIfTI type ${header.int16(70)} are not read`)
  const start = header.float32(108)
  if (start + size * I * J * K > view.byteLength) throw new Error(`${path}: voxels are missing at its end`)
  let [slope, intercept] = [header.float32(112), header.float32(116)]
  if (slope === 0 || !Number.isFinite(slope)) [slope, intercept] = [1, 0]
  const data = new Float32Array(I * J * K)
  // A file has i fastest, the wire has k fastest.
  let offset = start
  for (let k = 0; k < K; k++) {
    for (let j = 0; j < J; j++) {
      for (let i = 0; i < I; i++, offset += size) data[(i * J + j) * K + k] = view[get](offset, little) * slope + intercept
    }
  }
  return { shape: [I, J, K], data }
}

// The sform, else the qform. A file with neither does not state where the image lies in the scanner.
function readAffine(path, header) {
  if (header.int16(254) > 0) {
    const rows = AXES.map((row) => [0, 1, 2, 3].map((column) => header.float32(280 + 16 * row + 4 * column)))
    return [...rows.flat(), 0, 0, 0, 1]
  }
  if (header.int16(252) <= 0) throw new Error(`${path}: it has neither qform nor sform`)
  const [b, c, d] = AXES.map((n) => header.float32(256 + 4 * n))
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d))
  const spacing = AXES.map((axis) => header.float32(80 + 4 * axis))
  if (header.float32(76) < 0) spacing[2] *= -1
  const rotation = [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ]
  const rows = AXES.map((row) => [...AXES.map((axis) => rotation[row][axis] * spacing[axis]), header.float32(268 + 4 * row)])
  return [...rows.flat(), 0, 0, 0, 1]
}

module.exports = { readNifti }
