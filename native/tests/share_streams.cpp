// Several threads on one loaded model, each with streams and batches of its own: all must see the bits of a single
// thread. Built with ThreadSanitizer. Usage: share_streams rounds file.pj...

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "picojoule/picojoule.h"

namespace {

struct Borders {
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<std::vector<int64_t>> results;
  std::vector<pj_input> inputs;
  std::vector<pj_output> outputs;
};

// Data of `batch` samples of `steps` steps, the same for every caller.
Borders borders(const pj_model* model, int64_t batch, int64_t steps) {
  pj_info info;
  pj_describe(model, &info);
  Borders b;
  pj_edge edge;
  const auto count = [&] { return static_cast<size_t>(batch * edge.row * (edge.steps ? steps : 1)); };
  for (size_t i = 0; i < info.inputs; ++i) {
    pj_describe_input(model, i, &edge);
    std::vector<uint8_t> data(count());
    for (size_t k = 0; k < data.size(); ++k) data[k] = edge.type == PJ_U8 ? static_cast<uint8_t>(k * 37) : k * 7919 % 3 == 0;
    b.bytes.push_back(std::move(data));
  }
  for (size_t i = 0; i < info.outputs; ++i) {
    pj_describe_output(model, i, &edge);
    b.results.emplace_back(count());
  }
  for (auto& data : b.bytes) b.inputs.push_back({data.data(), PJ_U8, data.size()});
  for (auto& data : b.results) b.outputs.push_back({data.data(), PJ_I64, data.size()});
  return b;
}

void need(pj_status status, const char* what) {
  if (status == PJ_OK) return;
  std::fprintf(stderr, "%s: %s\n", what, pj_last_error());
  std::exit(1);
}

std::vector<std::vector<int64_t>> work(const pj_model* model, int rounds, bool stream) {
  std::vector<std::vector<int64_t>> all;
  for (int r = 0; r < rounds; ++r) {
    pj_info info;
    pj_describe(model, &info);
    Borders whole = borders(model, 2, info.steps > 0 ? info.steps : 1);
    need(pj_run(model, 2, whole.inputs.data(), whole.inputs.size(), whole.outputs.data(), whole.outputs.size()), "run");
    for (auto& result : whole.results) all.push_back(result);
    if (!stream) continue;
    pj_stream* handle = nullptr;
    need(pj_stream_open(model, 2, &handle), "open");
    for (int64_t t = 0; t < info.steps && t < info.stream_limit; ++t) {
      Borders step = borders(model, 2, 1);
      need(pj_stream_step(handle, 1, step.inputs.data(), step.inputs.size(), step.outputs.data(), step.outputs.size()), "step");
      for (auto& result : step.results) all.push_back(result);
    }
    pj_stream_close(handle);
  }
  return all;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) return 2;
  const int rounds = std::atoi(words[1]);
  for (int i = 2; i < count; ++i)
    for (int threads : {1, 2}) {
      pj_options options;
      pj_options_init(&options);
      options.threads = threads;
      pj_model *model = nullptr, *alone = nullptr;
      need(pj_load(words[i], &options, &model), "load");
      need(pj_load(words[i], nullptr, &alone), "load");
      pj_info info;
      pj_describe(model, &info);
      const bool stream = info.stream_limit > 0;
      const auto wanted = work(alone, rounds, stream);
      std::vector<std::vector<std::vector<int64_t>>> found(4);
      std::vector<std::thread> callers;
      for (auto& mine : found) callers.emplace_back([&] { mine = work(model, rounds, stream); });
      for (auto& caller : callers) caller.join();
      for (auto& mine : found)
        if (mine != wanted) {
          std::fprintf(stderr, "%s: threads disagree\n", words[i]);
          return 1;
        }
      pj_free(model);
      pj_free(alone);
    }
  std::printf("%d files, 4 callers each: the bits of one\n", count - 2);
}
