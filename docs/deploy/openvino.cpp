// Score images with an exported model and OpenVINO's C++ API.
//
//   score MODEL.xml THRESHOLD MAP_THRESHOLD IMAGE.ppm...
//
// Each image is a binary PPM (P6, 8 bits) of the size that the model takes. Prints one line for
// each: the decision, the score, the number of anomalous pixels, where the map is highest, and the
// name.

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>

struct Picture {
    size_t height = 0, width = 0;
    std::vector<float> pixels;  // H x W x 3, RGB, 0 to 255
};

Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    size_t largest = 0;
    Picture picture;
    file >> magic >> picture.width >> picture.height >> largest;
    file.get();
    if (!file || magic != "P6" || largest != 255)
        throw std::runtime_error(path + ": not a binary PPM of 8 bits");
    std::vector<unsigned char> bytes(picture.height * picture.width * 3);
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!file) throw std::runtime_error(path + ": cut short");
    picture.pixels.assign(bytes.begin(), bytes.end());
    return picture;
}

// How many pixels are anomalous. In a good image none is. In an anomalous one those whose map lies
// above the map's threshold; where there are none, the region around the map's maximum that lies
// above half of it.
size_t count_anomalous(const float* map, size_t height, size_t width, bool anomalous,
                       double threshold) {
    if (!anomalous) return 0;
    const size_t n = height * width;
    const size_t above =
        std::count_if(map, map + n, [&](float value) { return value > threshold; });
    if (above > 0) return above;
    const size_t peak = std::max_element(map, map + n) - map;
    std::vector<bool> found(n, false);
    std::vector<size_t> pending{peak};
    found[peak] = true;
    size_t count = 0;
    while (!pending.empty()) {
        const size_t pixel = pending.back(), row = pixel / width, column = pixel % width;
        pending.pop_back();
        ++count;
        for (size_t y = row - (row > 0); y <= std::min(row + 1, height - 1); ++y)
            for (size_t x = column - (column > 0); x <= std::min(column + 1, width - 1); ++x)
                if (!found[y * width + x] && map[y * width + x] > map[peak] / 2) {
                    found[y * width + x] = true;
                    pending.push_back(y * width + x);
                }
    }
    return count;
}

int main(int argc, char** argv) try {
    if (argc < 5)
        throw std::runtime_error("usage: score MODEL.xml THRESHOLD MAP_THRESHOLD IMAGE.ppm...");
    const double threshold = std::stod(argv[2]), map_threshold = std::stod(argv[3]);
    ov::Core core;
    // By default OpenVINO computes in bfloat16 where the processor can, which is too coarse for the
    // whitening.
    auto model = core.compile_model(argv[1], "CPU",
                                    ov::hint::inference_precision(ov::element::f32),
                                    ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
    auto request = model.create_infer_request();
    for (int number = 4; number < argc; ++number) {
        Picture picture = read_ppm(argv[number]);
        request.set_tensor("image", ov::Tensor(ov::element::f32,
                                               {1, picture.height, picture.width, 3},
                                               picture.pixels.data()));
        request.infer();
        const float score = request.get_tensor("score").data<float>()[0];
        const float* map = request.get_tensor("anomaly_map").data<float>();
        const size_t peak =
            std::max_element(map, map + picture.height * picture.width) - map;
        const bool anomalous = score > threshold;
        std::cout << (anomalous ? "anomalous" : "good") << ' ' << score << ' '
                  << count_anomalous(map, picture.height, picture.width, anomalous, map_threshold)
                  << ' ' << peak % picture.width << ',' << peak / picture.width << ' '
                  << argv[number] << '\n';
    }
    return EXIT_SUCCESS;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return EXIT_FAILURE;
}
