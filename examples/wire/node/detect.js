'use strict'

// Detect microbleeds by a server: node detect.js HOST:PORT SCAN [PHASE]
// Prints a JSON object with the detections, or with the error and exit status 1.

const path = require('node:path')
const { setTimeout: pause } = require('node:timers/promises')
const grpc = require('@grpc/grpc-js')
const protoLoader = require('@grpc/proto-loader')
const { readNifti } = require('./nifti')

const MODEL = 'cmb_detector'
const MESSAGE_BYTES = 2 ** 31 - 1
const TIMEOUT_MS = 120_000 // of one attempt
const DEADLINE_MS = 600_000 // after which no further attempt begins
// NOT_FOUND: a server that starts has no release loaded yet.
const RETRIED = [grpc.status.NOT_FOUND, grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED]
const COLUMNS = ['centre_mm', 'index', 'diameter_mm', 'score', 'stage1_score', 'stage2_score']

// Bytes per element and the Buffer method that reads one, little-endian.
const TYPES = {
  FP32: [4, 'readFloatLE'],
  FP64: [8, 'readDoubleLE'],
  INT32: [4, 'readInt32LE'],
  INT64: [8, 'readBigInt64LE'],
}

function connect(address) {
  const protocol = protoLoader.loadSync(path.join(__dirname, '../proto/grpc_service.proto'), { keepCase: true, longs: Number })
  const { inference } = grpc.loadPackageDefinition(protocol)
  const options = { 'grpc.max_send_message_length': MESSAGE_BYTES, 'grpc.enable_http_proxy': 0 }
  return new inference.GRPCInferenceService(address, grpc.credentials.createInsecure(), options)
}

async function detect(client, scanPath, phasePath) {
  const metadata = await attempt(client, 'ModelMetadata', { name: MODEL })
  const scan = readNifti(scanPath)
  const inputs = [
    { name: 'volume', datatype: 'FP32', shape: scan.shape, values: scan.data },
    { name: 'affine', datatype: 'FP64', shape: [4, 4], values: Float64Array.from(scan.affine) },
  ]
  if (metadata.inputs.some((tensor) => tensor.name === 'phase')) {
    if (!phasePath) throw new Error("this release needs the scan's phase image as third argument")
    const phase = readNifti(phasePath) // on the voxel grid of the scan
    inputs.push({ name: 'phase', datatype: 'FP32', shape: phase.shape, values: phase.data })
  }
  return resultOf(await attempt(client, 'ModelInfer', requestOf(inputs)))
}

// Typed arrays are little-endian on the processors that Node runs on, as the wire is.
function requestOf(inputs) {
  return {
    model_name: MODEL,
    inputs: inputs.map(({ name, datatype, shape }) => ({ name, datatype, shape })),
    raw_input_contents: inputs.map(({ values }) => Buffer.from(values.buffer, values.byteOffset, values.byteLength)),
  }
}

// The response; sent again, after growing pauses, while no server or release answers.
async function attempt(client, method, message) {
  const began = Date.now()
  for (let pauseMs = 500; ; pauseMs = Math.min(2 * pauseMs, 15_000)) {
    try {
      return await call(client, method, message)
    } catch (error) {
      if (!RETRIED.includes(error.code) || Date.now() + pauseMs - began > DEADLINE_MS) throw error
    }
    await pause(pauseMs)
  }
}

function call(client, method, message) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + TIMEOUT_MS
    client[method](message, { deadline }, (error, response) => (error ? reject(error) : resolve(response)))
  })
}

// The detections, best first: the candidates whose score reaches the release's threshold.
function resultOf(response) {
  const tensors = {}
  response.outputs.forEach((tensor, n) => (tensors[tensor.name] = decode(tensor, response.raw_output_contents[n])))
  const candidates = tensors.score.map((_, n) => Object.fromEntries(COLUMNS.map((name) => [name, tensors[name][n]])))
  const [threshold] = tensors.threshold
  return {
    release: tensors.release[0],
    manifest_sha256: tensors.manifest_sha256[0],
    threshold,
    detections: candidates.filter((candidate) => candidate.score >= threshold),
  }
}

// An output as an array of numbers, or of rows for two dimensions; of BYTES the one text, which follows its length in four bytes.
function decode({ datatype, shape }, raw) {
  if (datatype === 'BYTES') return [raw.toString('utf8', 4, 4 + raw.readUInt32LE(0))]
  const [size, read] = TYPES[datatype]
  const values = Array.from({ length: raw.length / size }, (_, n) => Number(raw[read](n * size)))
  if (shape.length === 1) return values
  const [rows, columns] = shape
  return Array.from({ length: rows }, (_, row) => values.slice(row * columns, (row + 1) * columns))
}

// The stable code in the message of a rejected scan; null if the scan was not the reason. Text may precede and follow the JSON.
function codeOf(message) {
  const found = message.match(/\{"code": "([a-z0-9-]+)"/)
  return found ? found[1] : null
}

async function main([address, scanPath, phasePath]) {
  const client = connect(address)
  try {
    console.log(JSON.stringify(await detect(client, scanPath, phasePath), null, 1))
  } catch (error) {
    if (typeof error.code !== 'number') throw error
    console.log(JSON.stringify({ status: grpc.status[error.code], code: codeOf(error.details), message: error.details }, null, 1))
    process.exitCode = 1
  } finally {
    client.close()
  }
}

main(process.argv.slice(2))
