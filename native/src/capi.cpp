// The C interface: checks what callers give, turns exceptions into a status and a message of the thread.

#include <cmath>
#include <limits>
#include <mutex>

#include "file_open.h"
#include "file_read.h"
#include "file_tune.h"
#include "isa.h"
#include "picojoule/engine.h"
#include "picojoule/picojoule.h"
#include "picojoule/version.h"

using namespace picojoule;

namespace {

// What a loaded model is made of; streams keep it alive.
struct Loaded {
  std::shared_ptr<file::OpenFile> source;
  EngineOptions options;
  file::Packed packed;
  std::unique_ptr<Engine> engine;
  std::vector<int> entries, exits;  // nodes of the inputs and outputs
  std::string isa, tuned;           // what became of the table of kernels
  std::mutex lock;                  // of `streaming`
  std::shared_ptr<Engine> streaming;
};

thread_local std::string last_error;

pj_status report(pj_status status, const std::string& what) {
  last_error = what;
  return status;
}

// Runs f; what it throws becomes a status.
template <class F>
pj_status guarded(F&& f) noexcept {
  try {
    f();
    return PJ_OK;
  } catch (const file::VersionError& e) {
    return report(PJ_ERROR_VERSION, e.what());
  } catch (const file::FormatError& e) {
    return report(PJ_ERROR_FORMAT, e.what());
  } catch (const file::IoError& e) {
    return report(PJ_ERROR_IO, e.what());
  } catch (const NonFiniteError& e) {
    return report(PJ_ERROR_NONFINITE, e.what());
  } catch (const KindError& e) {
    return report(PJ_ERROR_INPUT, e.what());
  } catch (const std::out_of_range& e) {
    return report(PJ_ERROR_ARGUMENT, e.what());
  } catch (const std::domain_error& e) {
    return report(PJ_ERROR_STREAM, e.what());
  } catch (const Error& e) {
    return report(PJ_ERROR_UNSUPPORTED, e.what());
  } catch (const std::bad_alloc&) {
    return report(PJ_ERROR_MEMORY, "out of memory");
  } catch (const std::exception& e) {
    return report(PJ_ERROR_INTERNAL, e.what());
  } catch (...) {
    return report(PJ_ERROR_INTERNAL, "an unknown fault");
  }
}

[[noreturn]] void argument(const std::string& what) { throw std::out_of_range(what); }

void need(const void* pointer, const char* name) {
  if (!pointer) argument(std::string(name) + " is NULL");
}

// Constants are in the kernels by now; shapes and kinds stay.
void release(GraphDef& graph) {
  for (auto& node : graph.nodes) {
    node.tensors.clear();
    if (node.body) release(*node.body);
  }
}

std::unique_ptr<Engine> build(const std::shared_ptr<GraphDef>& graph, EngineOptions options, bool stream) {
  options.stream = stream;
  return std::make_unique<Engine>(graph, options);
}

std::shared_ptr<Loaded> load(std::shared_ptr<file::OpenFile> source, const pj_options* given, const std::string& path) {
  pj_options options;
  pj_options_init(&options);
  if (given) {
    if (given->size < sizeof(size_t) || given->size > 4096) argument("options.size is not set; call pj_options_init first");
    std::memcpy(&options, given, std::min(given->size, sizeof options));
  }
  if (options.threads < 1 || options.threads > 1024) argument("options.threads must lie in 1..1024");
  auto made = std::make_shared<Loaded>();
  made->options.threads = options.threads;
  made->options.isa = options.isa ? options.isa : "auto";
  made->options.spin = options.spin != 0;
  made->options.max_bytes = options.max_bytes;
  made->options.mode = options.mode ? options.mode : "auto";
  made->source = std::move(source);
  const std::string where = path.empty() ? "" : path + ": ";
  try {
    made->packed = file::read(made->source->bytes());
  } catch (const file::VersionError& e) {
    throw file::VersionError(where + e.what());
  } catch (const file::FormatError& e) {
    throw file::FormatError(where + e.what());
  }
  made->options.rates = made->packed.rates;
  if (options.table && !path.empty()) {
    file::TuneTable table = file::read_tune(path, made->source->bytes(), name_of(parse_isa(made->options.isa)));
    made->options.tuned = std::move(table.kernels);
    made->options.boundaries = std::move(table.boundaries);
    made->tuned = std::move(table.note);
  }
  GraphDef& graph = *made->packed.graph;
  made->engine = build(made->packed.graph, made->options, false);
  release(graph);
  made->entries = graph.of_type("Input");
  made->exits = graph.of_type("Output");
  made->isa = made->engine->isa();
  return made;
}

int64_t rows_of(const NodeDef& node, int64_t steps) { return node.steps > 0 ? steps : 1; }

struct Borders {
  std::vector<InputBatch> inputs;
  std::vector<int64_t*> outputs;
};

// Sizes and types of one call, checked against the graph; a caller's thread keeps the memory for its next call.
const Borders& borders(const Loaded& m, size_t batch, int64_t steps, const pj_input* inputs, size_t n_inputs, const pj_output* outputs,
                size_t n_outputs) {
  if (n_inputs != m.entries.size() || n_outputs != m.exits.size())
    argument("this model has " + std::to_string(m.entries.size()) + " inputs and " + std::to_string(m.exits.size()) + " outputs, got " +
             std::to_string(n_inputs) + " and " + std::to_string(n_outputs));
  need(inputs, "inputs");
  need(outputs, "outputs");
  if (batch > static_cast<size_t>(std::numeric_limits<int64_t>::max() >> 32)) argument("batch is too large");
  const auto check = [&](const NodeDef& node, const std::string& name, size_t count, const void* data, int type) {
    const int64_t sample = rows_of(node, steps) * node.size(), wanted = file::times(static_cast<int64_t>(batch), sample);
    if (count > static_cast<size_t>(file::kMany) || static_cast<int64_t>(count) != wanted)
      argument("'" + name + "' has " + std::to_string(count) + " elements, " + std::to_string(wanted) + " are needed: batch " + std::to_string(batch) +
               " of " + std::to_string(sample));
    if (!data && count) argument("the data of '" + name + "' is NULL");
    if (type < PJ_I8 || type > PJ_F64) argument("'" + name + "' has an unknown type");
  };
  static constexpr Dtype types[] = {Dtype::i8, Dtype::i16, Dtype::i32, Dtype::i64, Dtype::u8, Dtype::f32, Dtype::f64};
  thread_local Borders made;
  made.inputs.clear();
  made.outputs.clear();
  for (size_t i = 0; i < n_inputs; ++i) {
    const NodeDef& node = m.packed.graph->nodes[m.entries[i]];
    check(node, node.name, inputs[i].count, inputs[i].data, inputs[i].type);
    if (m.packed.bytes_inputs[i] && inputs[i].type != PJ_U8) argument("input '" + node.name + "' reads bytes: its type must be PJ_U8");
    made.inputs.push_back({static_cast<const std::byte*>(inputs[i].data), types[inputs[i].type]});
  }
  for (size_t i = 0; i < n_outputs; ++i) {
    check(m.packed.graph->nodes[m.exits[i]], m.packed.keys[i], outputs[i].count, outputs[i].data, outputs[i].type);
    if (outputs[i].type != PJ_I64 && outputs[i].type != PJ_F64) argument("output '" + m.packed.keys[i] + "' must be PJ_I64 or PJ_F64");
    made.outputs.push_back(static_cast<int64_t*>(outputs[i].data));
  }
  return made;
}

// Integers to real values where they were asked for, in place.
void to_real(const Loaded& m, const pj_output* outputs) {
  for (size_t i = 0; i < m.exits.size(); ++i) {
    if (outputs[i].type != PJ_F64) continue;
    const int frac = m.packed.graph->nodes[m.exits[i]].kind.frac;
    auto* bytes = static_cast<std::byte*>(outputs[i].data);
    for (size_t k = 0; k < outputs[i].count; ++k, bytes += 8) {
      int64_t whole;
      std::memcpy(&whole, bytes, 8);
      const double real = std::ldexp(static_cast<double>(whole), -frac);
      std::memcpy(bytes, &real, 8);
    }
  }
}

void describe(const NodeDef& node, const std::string& name, bool entry, bool bytes, pj_edge* edge) {
  const Kind& kind = node.kind;
  edge->name = name.c_str();
  edge->kind = static_cast<pj_kind>(kind.name);
  edge->low = kind.low();
  edge->high = kind.high();
  edge->frac = kind.frac;
  edge->scale = std::ldexp(1.0, -kind.frac);
  edge->steps = node.steps;
  edge->rank = node.shape.size();
  edge->shape = node.shape.data();
  edge->row = node.size();
  edge->count = node.size() * std::max<int64_t>(1, node.steps);
  edge->type = !entry ? PJ_I64 : bytes ? PJ_U8 : kind.spikes() && kind.high() <= 127 ? PJ_I8 : PJ_F32;
}

// The engine of streams, made when the first one opens: from the file once more, whose constants were released.
std::shared_ptr<Engine> streaming(Loaded& m) {
  if (!m.packed.needs_future.empty())
    throw std::domain_error("TimeMix '" + m.packed.needs_future + "' looks at future steps and cannot be streamed; run the whole sequence");
  const std::lock_guard hold(m.lock);
  if (!m.streaming) {
    m.source->check();
    const auto again = file::read(m.source->bytes());
    m.streaming = build(again.graph, m.options, true);
    release(*again.graph);
  }
  return m.streaming;
}

}  // namespace

struct pj_model {
  std::shared_ptr<Loaded> loaded;
};

struct pj_stream {
  std::shared_ptr<Loaded> loaded;
  std::shared_ptr<Engine> engine;
  size_t batch = 0;
  int64_t position = 0;
  std::vector<std::byte> state;
  bool failed = false;
};

extern "C" {

int pj_abi(void) { return PJ_ABI; }
const char* pj_version(void) { return kVersion; }
const char* pj_last_error(void) { return last_error.c_str(); }

const char* pj_isa(size_t i) {
  static const std::vector<std::string> all = Engine::isas();
  return i < all.size() ? all[i].c_str() : nullptr;
}

const char* pj_status_text(pj_status status) {
  static const char* const texts[] = {"done",
                                      "a wrong argument",
                                      "the file cannot be read",
                                      "not a sound packed file",
                                      "a packed file of another version",
                                      "not supported",
                                      "data of another kind",
                                      "data that is not finite",
                                      "the stream cannot go on",
                                      "out of memory",
                                      "a fault of the library"};
  return status >= PJ_OK && status <= PJ_ERROR_INTERNAL ? texts[status] : "unknown status";
}

void pj_options_init(pj_options* options) {
  if (options) *options = pj_options{sizeof(pj_options), 1, "auto", 1, 1, int64_t{1} << 32, "auto", 1};
}

pj_status pj_load(const char* path, const pj_options* options, pj_model** model) {
  return guarded([&] {
    need(model, "model");
    *model = nullptr;
    need(path, "path");
    const bool map = !options || options->size < offsetof(pj_options, map) + sizeof(int) || options->map;
    auto source = std::make_shared<file::OpenFile>(path, map);
    *model = new pj_model{load(std::move(source), options, path)};
  });
}

pj_status pj_load_memory(const void* data, size_t size, const pj_options* options, pj_model** model) {
  return guarded([&] {
    need(model, "model");
    *model = nullptr;
    if (size) need(data, "data");
    if (size > static_cast<size_t>(file::kMaxFile)) throw file::FormatError("field 'header length': more than 2^32 bytes are no packed file");
    *model = new pj_model{load(std::make_shared<file::OpenFile>(file::copy_of(data, size)), options, "")};
  });
}

void pj_free(pj_model* model) { delete model; }

pj_status pj_describe(const pj_model* model, pj_info* info) {
  return guarded([&] {
    need(model, "model");
    need(info, "info");
    const Loaded& m = *model->loaded;
    int64_t steps = 0, constants = 0;
    for (auto& node : m.packed.graph->nodes) steps = std::max(steps, node.steps);
    for (auto& node : m.engine->info()) constants += node.bytes;
    const int64_t limit = m.packed.needs_future.empty() ? m.packed.stream_limit : 0;
    *info = {m.entries.size(), m.exits.size(), m.packed.graph->nodes.size(), m.packed.classes.size(), steps,         m.packed.payload_bytes,
             constants,        m.engine->arena_bytes(),      limit,          m.isa.c_str(),           m.packed.card.c_str()};
  });
}

pj_status pj_describe_input(const pj_model* model, size_t i, pj_edge* edge) {
  return guarded([&] {
    need(model, "model");
    need(edge, "edge");
    const Loaded& m = *model->loaded;
    if (i >= m.entries.size()) argument("there are " + std::to_string(m.entries.size()) + " inputs");
    const NodeDef& node = m.packed.graph->nodes[m.entries[i]];
    describe(node, node.name, true, m.packed.bytes_inputs[i], edge);
  });
}

pj_status pj_describe_output(const pj_model* model, size_t i, pj_edge* edge) {
  return guarded([&] {
    need(model, "model");
    need(edge, "edge");
    const Loaded& m = *model->loaded;
    if (i >= m.exits.size()) argument("there are " + std::to_string(m.exits.size()) + " outputs");
    describe(m.packed.graph->nodes[m.exits[i]], m.packed.keys[i], false, false, edge);
  });
}

const char* pj_tuned(const pj_model* model) { return model ? model->loaded->tuned.c_str() : ""; }

const char* pj_class(const pj_model* model, size_t i) {
  return model && i < model->loaded->packed.classes.size() ? model->loaded->packed.classes[i].c_str() : nullptr;
}

pj_status pj_pixel_scale(const pj_model* model, size_t channel, double* mean, double* deviation) {
  return guarded([&] {
    need(model, "model");
    need(mean, "mean");
    need(deviation, "deviation");
    const auto at = [&](const std::vector<double>& values, double otherwise) {
      return values.empty() ? otherwise : values[std::min(channel, values.size() - 1)];
    };
    *mean = at(model->loaded->packed.mean, 0.0);
    *deviation = at(model->loaded->packed.std, 1.0);
  });
}

pj_status pj_run(const pj_model* model, size_t batch, const pj_input* inputs, size_t n_inputs, const pj_output* outputs, size_t n_outputs) {
  return guarded([&] {
    need(model, "model");
    const Loaded& m = *model->loaded;
    const int64_t steps = m.packed.graph->steps();
    const Borders& b = borders(m, batch, steps, inputs, n_inputs, outputs, n_outputs);
    m.engine->run(static_cast<int64_t>(batch), steps, 0, b.inputs, b.outputs, nullptr);
    to_real(m, outputs);
  });
}

pj_status pj_stream_open(const pj_model* model, size_t batch, pj_stream** stream) {
  return guarded([&] {
    need(stream, "stream");
    *stream = nullptr;
    need(model, "model");
    auto made = std::make_unique<pj_stream>();
    made->loaded = model->loaded;
    made->engine = streaming(*model->loaded);
    made->batch = batch;
    const int64_t bytes = file::times(static_cast<int64_t>(std::min<size_t>(batch, size_t{1} << 40)), made->engine->state_bytes());
    if (bytes > int64_t{1} << 46) throw std::bad_alloc();
    made->state.resize(static_cast<size_t>(bytes));
    *stream = made.release();
  });
}

pj_status pj_stream_step(pj_stream* stream, size_t steps, const pj_input* inputs, size_t n_inputs, const pj_output* outputs, size_t n_outputs) {
  const pj_status status = guarded([&] {
    need(stream, "stream");
    const Loaded& m = *stream->loaded;
    const int64_t block = m.packed.graph->steps(), limit = m.packed.stream_limit;
    if (stream->failed) throw std::domain_error("an earlier step of this stream failed; reset it");
    if (steps < 1) argument("steps must be at least 1");
    if (steps > static_cast<size_t>(limit) || stream->position + static_cast<int64_t>(steps) > limit)
      throw std::domain_error("the bounds of this network are proven for " + std::to_string(limit) + " steps, " + std::to_string(stream->position) +
                              " are used; reset the stream");
    const auto count = static_cast<int64_t>(steps), batch = static_cast<int64_t>(stream->batch);
    const Borders& b = borders(m, stream->batch, count, inputs, n_inputs, outputs, n_outputs);
    stream->failed = true;
    if (count <= block) {
      stream->engine->run(batch, count, stream->position, b.inputs, b.outputs, stream->state.data());
    } else {
      // More than T steps at once: one by one sample and block, as the engine takes at most T.
      thread_local Borders part;
      auto& [in, out] = part;
      for (int64_t s = 0; s < batch; ++s)
        for (int64_t first = 0; first < count; first += block) {
          in.clear();
          out.clear();
          for (size_t i = 0; i < b.inputs.size(); ++i) {
            const NodeDef& node = m.packed.graph->nodes[m.entries[i]];
            const int64_t at = node.steps > 0 ? s * count + first : s;
            in.push_back({b.inputs[i].data + at * node.size() * bytes_of(b.inputs[i].dtype), b.inputs[i].dtype});
          }
          for (size_t i = 0; i < b.outputs.size(); ++i) {
            const NodeDef& node = m.packed.graph->nodes[m.exits[i]];
            out.push_back(b.outputs[i] + (node.steps > 0 ? s * count + first : s) * node.size());
          }
          stream->engine->run(1, std::min(block, count - first), stream->position + first, in, out,
                              stream->state.data() + s * stream->engine->state_bytes());
        }
    }
    to_real(m, outputs);
    stream->position += count;
    stream->failed = false;
  });
  return status;
}

pj_status pj_stream_reset(pj_stream* stream) {
  return guarded([&] {
    need(stream, "stream");
    stream->position = 0;
    stream->failed = false;
  });
}

int64_t pj_stream_position(const pj_stream* stream) { return stream ? stream->position : 0; }
void pj_stream_close(pj_stream* stream) { delete stream; }

}  // extern "C"
