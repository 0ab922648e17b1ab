// Score images with an exported model and OpenVINO's C++ API.
//
//   score MODEL.xml THRESHOLD IMAGE.ppm...
//
// Each image is a binary PPM (P6, 8 bits) of the size that the model takes. Prints one line for
// each: the verdict, the score, where the map is highest, and the name.

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

int main(int argc, char** argv) try {
    if (argc < 4) throw std::runtime_error("usage: score MODEL.xml THRESHOLD IMAGE.ppm...");
    const double threshold = std::stod(argv[2]);
    ov::Core core;
    // Unset, a processor that can would compute in bfloat16. For a model exported with
    // --precision bf16, say bf16 here.
    auto model = core.compile_model(argv[1], "CPU",
                                    ov::hint::inference_precision(ov::element::f32),
                                    ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
    auto request = model.create_infer_request();
    for (int number = 3; number < argc; ++number) {
        Picture picture = read_ppm(argv[number]);
        request.set_tensor("image", ov::Tensor(ov::element::f32,
                                               {1, picture.height, picture.width, 3},
                                               picture.pixels.data()));
        request.infer();
        const float score = request.get_tensor("score").data<float>()[0];
        const float* map = request.get_tensor("anomaly_map").data<float>();
        const size_t peak =
            std::max_element(map, map + picture.height * picture.width) - map;
        std::cout << (score > threshold ? "anomalous" : "good") << ' ' << score << ' '
                  << peak % picture.width << ',' << peak / picture.width << ' ' << argv[number]
                  << '\n';
    }
    return EXIT_SUCCESS;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return EXIT_FAILURE;
}
