"""MiniSlakh: the layout of Slakh2100, sums, lengths, bytes from seeds, and what the songs are."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

pytest.importorskip("tinysoundfont")
mido = pytest.importorskip("mido")
pretty_midi = pytest.importorskip("pretty_midi")

from minislakh import Sound, write_corpus  # noqa: E402
from minislakh.chords import (  # noqa: E402
    ARPEGGIOS,
    FAMILY_RHYTHMS,
    STABS,
)
from minislakh.compose import compose_song  # noqa: E402
from minislakh.corpus import _watch_parent, split_sizes  # noqa: E402
from minislakh.instruments import pitched_instruments  # noqa: E402
from minislakh.melody import (  # noqa: E402
    ANSWERS,
    CADENCES,
    MOTIFS,
)
from minislakh.rhythm import (  # noqa: E402
    HITS,
    KEYS,
)
from minislakh.score import inst_class  # noqa: E402
from minislakh.sound import (  # noqa: E402
    Renderer,
    find_soundfont,
    integrated_loudness,
)
from minislakh.styles import all_styles  # noqa: E402

RATE = 44100
SECONDS = 4.7
SEED = 11
TOP_FIELDS = (
    "UUID audio_dir lmd_midi_dir midi_dir normalization_factor normalized overall_gain stems "
    "target_peak"
)  # in the order of the file
STEM_FIELDS = (
    "audio_rendered inst_class integrated_loudness is_drum midi_program_name midi_saved "
    "plugin_name program_num"
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("minislakh") / "corpus"
    return write_corpus(out, 5, SECONDS, SEED, progress=False)


@pytest.fixture(scope="module")
def scores():
    return [compose_song(0, index, 30.0) for index in range(40)]


def tracks_of(corpus: Path) -> dict[str, Path]:
    paths = sorted(corpus.glob("*/Track*"), key=lambda path: path.name)
    return {path.name: path for path in paths}


def metadata_of(track: Path) -> dict:
    return yaml.safe_load((track / "metadata.yaml").read_text(encoding="utf-8"))


def digests(track: Path) -> dict[str, str]:
    """Relative path to hash of every file of a track."""
    files = sorted(path for path in track.rglob("*") if path.is_file())
    return {
        str(path.relative_to(track)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read_int16(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0]


# --- layout


def test_splits_hold_continuously_numbered_tracks(corpus):
    found = [str(path.relative_to(corpus)) for path in corpus.glob("*/*")]
    assert sorted(found) == [
        "test/Track00005",
        "train/Track00001",
        "train/Track00002",
        "train/Track00003",
        "validation/Track00004",
    ]


@pytest.mark.parametrize(
    ("songs", "sizes"),
    [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (10, (8, 1, 1)), (100, (80, 10, 10))],
)
def test_split_sizes(songs, sizes):
    assert tuple(split_sizes(songs).values()) == sizes


def test_a_track_holds_the_files_of_slakh_and_no_others(corpus):
    for track in tracks_of(corpus).values():
        stems = metadata_of(track)["stems"]
        assert list(stems) == [f"S{place:02d}" for place in range(len(stems))]
        expected = {"metadata.yaml", "mix.flac", "all_src.mid"}
        expected |= {f"stems/{name}.flac" for name in stems}
        expected |= {f"MIDI/{name}.mid" for name in stems}
        assert set(digests(track)) == expected


def test_metadata_has_the_fields_of_slakh(corpus):
    for track in tracks_of(corpus).values():
        fields = metadata_of(track)
        assert " ".join(fields) == TOP_FIELDS
        assert (fields["audio_dir"], fields["midi_dir"]) == ("stems", "MIDI")
        assert (fields["normalized"], fields["target_peak"]) == (True, -1.0)
        assert fields["normalization_factor"] == -13.0
        assert len(bytes.fromhex(fields["UUID"])) == 16
        for stem in fields["stems"].values():
            assert " ".join(stem) == STEM_FIELDS
            assert stem["is_drum"] == (stem["program_num"] == 128)
            assert stem["inst_class"] == inst_class(stem["program_num"])
            assert stem["audio_rendered"] is stem["midi_saved"] is True
            assert stem["plugin_name"] == "TimGM6mb.sf2"


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (0, "Piano"),
        (39, "Bass"),
        (47, "Strings"),
        (48, "Strings (continued)"),
        (96, "Sound Effects"),
        (111, "Ethnic"),
        (118, "Percussive"),
        (119, "Sound effects"),
        (128, "Drums"),
    ],
)
def test_inst_class_is_slakhs(program, name):
    assert inst_class(program) == name


def test_inst_class_of_no_program_raises():
    with pytest.raises(ValueError, match="program 129: a program is 0 to 128"):
        inst_class(129)


# --- audio


def test_audio_is_mono_16_bit_flac_of_exactly_the_requested_length(corpus):
    for path in corpus.rglob("*.flac"):
        info = soundfile.info(path)
        assert (info.format, info.subtype) == ("FLAC", "PCM_16")
        assert (info.samplerate, info.channels) == (RATE, 1)
        assert info.frames == round(SECONDS * RATE)


def test_mix_is_the_exact_sum_of_the_stems_and_peaks_at_the_target(corpus):
    for track in tracks_of(corpus).values():
        mix = read_int16(track / "mix.flac")
        stems = [read_int16(path).astype(int) for path in (track / "stems").iterdir()]
        np.testing.assert_array_equal(mix, sum(stems))
        peak = max(np.abs(audio).max() for audio in (mix.astype(int), *stems)) / 32768
        assert abs(20 * np.log10(peak) - -1.0) < 0.01


def test_every_stem_sounds_at_the_loudness_in_its_metadata(corpus):
    for track in tracks_of(corpus).values():
        fields = metadata_of(track)
        assert len(fields["stems"]) >= 4
        full_scale = 32768 * fields["overall_gain"]
        for name, stem in fields["stems"].items():
            audio = read_int16(track / "stems" / f"{name}.flac") / full_scale
            assert abs(integrated_loudness(audio, RATE) - stem["integrated_loudness"]) < 0.02


def test_audio_ends_in_silence_not_in_a_click(corpus):
    for path in corpus.rglob("*.flac"):
        assert np.abs(read_int16(path)[-4:]).max() <= 32


def test_full_scale_sine_has_the_loudness_of_the_standard():
    time = np.arange(5 * RATE) / RATE
    sine = np.sin(2 * np.pi * 997 * time)
    assert integrated_loudness(sine, RATE) == pytest.approx(-3.01, abs=0.05)
    gated = np.concatenate([sine, np.zeros(20 * RATE)])
    assert integrated_loudness(gated, RATE) == pytest.approx(-3.01, abs=0.4)
    assert integrated_loudness(np.zeros(RATE), RATE) == -np.inf


def test_every_pitch_of_every_instrument_sounds():
    renderer = Renderer(find_soundfont())
    for instrument in pitched_instruments():
        renderer.synth.program_select(0, renderer.soundfont, 0, instrument.preset)
        for pitch in range(instrument.low, instrument.high + 1):
            renderer.synth.noteon(0, pitch, 80)
            audio = np.frombuffer(renderer.synth.generate_simple(2000), dtype=np.float32)
            assert np.abs(audio).max() > 1e-5, f"{instrument.name} at {pitch}"
            renderer.synth.sounds_off()
            renderer.synth.generate_simple(1200)


def test_a_part_sounds_the_same_alone_as_after_another():
    score = compose_song(SEED, 1, 5.0)
    renderer = Renderer(find_soundfont())
    one_by_one = [renderer.render(part, 5 * RATE) for part in score.parts]
    for part, audio in zip(score.parts, one_by_one, strict=True):
        np.testing.assert_array_equal(Renderer(find_soundfont()).render(part, 5 * RATE), audio)


# --- soundfonts, effects, ensembles


@pytest.fixture(scope="module")
def other_sound(tmp_path_factory) -> Path:
    """The corpus again, its parts played by two files with the same content, with effects."""
    folder = tmp_path_factory.mktemp("sound")
    fonts = tuple(folder / name for name in ("one.sf2", "two.sf2"))
    for font in fonts:
        shutil.copyfile(find_soundfont(), font)
    plain = write_corpus(folder / "plain", 2, SECONDS, SEED, sound=Sound(fonts), progress=False)
    write_corpus(folder / "effects", 2, SECONDS, SEED, sound=Sound(fonts, 1.0), progress=False)
    return plain


def test_each_part_is_played_by_one_of_the_soundfonts(corpus, other_sound):
    names = set()
    for name, track in tracks_of(other_sound).items():
        stems = metadata_of(track)["stems"].values()
        names |= {stem["plugin_name"] for stem in stems}
        same = digests(tracks_of(corpus)[name])
        found = digests(track)
        assert all(found[path] == same[path] for path in found if path != "metadata.yaml")
    assert names == {"one.sf2", "two.sf2"}
    settings = json.loads((other_sound / "minislakh.json").read_text())
    assert settings["soundfonts"] == ["one.sf2", "two.sf2"]
    with pytest.raises(ValueError, match="soundfonts"):
        write_corpus(other_sound, 2, SECONDS, SEED, progress=False)


def test_effects_change_every_stem_and_keep_sums_exact(other_sound):
    dry, wet = tracks_of(other_sound), tracks_of(other_sound.with_name("effects"))
    for name, track in wet.items():
        stems = sorted((track / "stems").glob("*.flac"))
        for stem in stems:
            assert not np.array_equal(read_int16(stem), read_int16(dry[name] / "stems" / stem.name))
        mix = np.sum([read_int16(stem) for stem in stems], axis=0, dtype=np.int16)
        assert np.array_equal(mix, read_int16(track / "mix.flac"))


def test_a_share_of_songs_has_the_four_core_instruments_alone():
    def instruments(index, core):
        parts = compose_song(0, index, 30.0, core).parts
        return sorted(part.instrument.inst_class for part in parts)

    four = ["Bass", "Drums", "Guitar", "Piano"]
    assert all(instruments(index, 1.0) == four for index in range(5))
    some = [index for index in range(40) if instruments(index, 0.3) == four]
    assert 5 <= len(some) <= 20


def test_a_soundfont_that_is_not_there_is_named(tmp_path):
    sound = Sound((tmp_path / "none.sf2",))
    with pytest.raises(FileNotFoundError, match=r"none\.sf2"):
        write_corpus(tmp_path / "corpus", 1, SECONDS, SEED, sound=sound)


# --- MIDI


def strokes(path: Path) -> list[tuple[int, int, int, int]]:
    """(tick, channel, pitch, velocity) of every note-on; each must have its note-off."""
    found, sounding = [], Counter()
    for track in mido.MidiFile(path).tracks:
        now = 0
        for message in track:
            now += message.time
            if message.type == "note_on":
                found.append((now, message.channel, message.note, message.velocity))
                sounding[message.channel, message.note] += 1
            elif message.type == "note_off":
                sounding[message.channel, message.note] -= 1
    assert set(sounding.values()) == {0}, f"{path}: hanging notes"
    return found


def first_second(path: Path) -> float:
    """When the first note of a file starts."""
    file = mido.MidiFile(path)
    tempo = next(message.tempo for message in file.tracks[0] if message.type == "set_tempo")
    return mido.tick2second(min(strokes(path))[0], file.ticks_per_beat, tempo)


def test_midi_of_the_stems_is_together_all_src(corpus):
    for track in tracks_of(corpus).values():
        fields = metadata_of(track)
        everything = (track / "all_src.mid").read_bytes()
        assert hashlib.md5(everything).hexdigest() == fields["UUID"]
        stems = [strokes(track / "MIDI" / f"{name}.mid") for name in fields["stems"]]
        apart = sorted((at, *rest) for stem in stems for at, _, *rest in stem)
        assert apart == sorted((at, *rest) for at, _, *rest in strokes(track / "all_src.mid"))


def test_midi_has_drums_on_channel_10_and_the_program_of_the_metadata(corpus):
    for track in tracks_of(corpus).values():
        for name, stem in metadata_of(track)["stems"].items():
            played = pretty_midi.PrettyMIDI(str(track / "MIDI" / f"{name}.mid")).instruments
            assert [instrument.is_drum for instrument in played] == [stem["is_drum"]]
            if not stem["is_drum"]:
                assert played[0].program == stem["program_num"]


def test_notes_are_where_the_audio_is(corpus):
    """A stem is silent until its first note and sounds right after it."""
    for track in tracks_of(corpus).values():
        for name in metadata_of(track)["stems"]:
            first = first_second(track / "MIDI" / f"{name}.mid")
            audio = np.abs(read_int16(track / "stems" / f"{name}.flac"))
            onset = np.flatnonzero(audio)[0] / RATE
            assert -0.002 <= onset - first < 0.1


# --- seeds


def test_same_seed_gives_the_same_bytes_whatever_the_workers_and_songs(corpus, tmp_path):
    again = write_corpus(tmp_path / "again", 3, SECONDS, SEED, workers=2, progress=False)
    before, after = tracks_of(corpus), tracks_of(again)
    assert list(after) == ["Track00001", "Track00002", "Track00003"]
    for name, track in after.items():
        assert digests(track) == digests(before[name])


def test_another_seed_gives_other_songs(corpus, tmp_path):
    other = write_corpus(tmp_path / "other", 3, SECONDS, SEED + 1, progress=False)
    uuids = [metadata_of(track)["UUID"] for track in tracks_of(corpus).values()]
    uuids += [metadata_of(track)["UUID"] for track in tracks_of(other).values()]
    assert len(set(uuids)) == 8


# --- composition


def test_the_corpus_has_many_classes_and_each_frequent_one_is_missing_somewhere(scores):
    songs = Counter(
        name for score in scores for name in {part.instrument.inst_class for part in score.parts}
    )
    assert len(songs) >= 12
    frequent = ("Bass", "Drums", "Guitar", "Piano")
    assert all(0.7 * len(scores) <= songs[name] < len(scores) for name in frequent)
    assert all(songs[name] < 0.5 * len(scores) for name in songs if name not in frequent)


def test_a_song_has_4_to_8_parts_at_different_levels(scores):
    spreads = []
    for score in scores:
        assert 4 <= len(score.parts) <= 8
        programs = [part.instrument.program for part in score.parts]
        assert len(set(programs)) == len(programs)
        levels = [part.level for part in score.parts]
        spreads.append(max(levels) - min(levels))
    assert 8 < np.median(spreads) < 18


@pytest.mark.parametrize("seconds", [4.0, 5.5, 12.0, 30.0, 100.0])
def test_sections_fill_the_song_and_every_part_plays_whatever_its_length(seconds):
    for index in range(15):
        score = compose_song(1, index, seconds)
        starts = np.cumsum([0, *(section.bars for section in score.sections)])
        assert [section.first_bar for section in score.sections] == list(starts[:-1])
        assert starts[-1] * score.bar_seconds() == pytest.approx(seconds)
        assert {"verse", "chorus"} <= {section.name for section in score.sections}
        for part in score.parts:
            assert part.notes
            assert all(0 <= note.start < note.end < seconds for note in part.notes)


def test_long_songs_have_all_kinds_of_section():
    names = {section.name for section in compose_song(0, 0, 120.0).sections}
    assert names == {"intro", "verse", "chorus", "bridge", "outro"}


def test_instruments_stay_in_their_ranges_and_no_pitch_overlaps_itself(scores):
    for score in scores:
        for part in score.parts:
            low, high = part.instrument.low, part.instrument.high
            assert all(low <= note.pitch <= high for note in part.notes)
            until = {}
            for note in part.notes:
                assert note.start >= until.get(note.pitch, 0.0)
                until[note.pitch] = note.end


def test_basses_play_low_and_drum_kits_play_kit_pieces(scores):
    for score in scores:
        for part in score.parts:
            pitches = {note.pitch for note in part.notes}
            if part.role == "bass":
                assert min(pitches) >= 28 and max(pitches) <= 52
            if part.instrument.is_drum:
                assert pitches <= set(KEYS.values())


def test_instruments_enter_and_rest_by_section(scores):
    """In most songs some part rests through a whole section; two play at least in each."""
    resting = 0
    for score in scores:
        bar = score.bar_seconds()
        active = []
        for section in score.sections:
            start = section.first_bar * bar - 0.05
            end = start + section.bars * bar
            active.append(sum(any(start <= n.start < end for n in p.notes) for p in score.parts))
        assert min(active) >= 2
        resting += min(active) < len(score.parts)
    assert resting > 0.8 * len(scores)


def onsets(part, score, section) -> list[float]:
    """Seconds from the section's start to each note, its last bar left out."""
    bar = score.bar_seconds()
    times = [note.start - section.first_bar * bar for note in part.notes]
    return [time for time in times if -0.05 <= time < (section.bars - 1) * bar - 0.05]


def test_a_melody_returns_with_its_section(scores):
    compared = 0
    for score in scores:
        verses = [section for section in score.sections if section.name == "verse"]
        leads = [part for part in score.parts if part.role == "lead"]
        if len(verses) < 2 or verses[0].bars != verses[1].bars or not leads:
            continue
        first, second = (onsets(leads[0], score, verse) for verse in verses)
        if first:  # a lead may join at the second verse
            np.testing.assert_allclose(first, second, atol=0.08)
            compared += 1
    assert compared >= 3


def test_rhythms_fill_whole_bars():
    for style in all_styles():
        steps = 4 * style.beats
        rhythms = [*style.basses, *style.comps]
        rhythms += [text for groove in style.grooves for text in groove.values()]
        assert {len(text) for text in rhythms} == {steps}
    shared = [*ARPEGGIOS, *STABS, *HITS, *MOTIFS, *CADENCES, *ANSWERS]
    shared += [text for rhythms in FAMILY_RHYTHMS.values() for text in rhythms]
    assert {len(text) for text in shared} == {12, 16}


def test_names_are_general_midi():
    for instrument in pitched_instruments():
        assert instrument.name == pretty_midi.program_to_instrument_name(instrument.program)


# --- running again, and errors


def test_a_second_run_writes_only_what_is_missing(corpus, tmp_path):
    out = shutil.copytree(corpus, tmp_path / "copy")
    kept = out / "train" / "Track00001"
    marker = kept / "marker"
    marker.touch()
    shutil.rmtree(out / "train" / "Track00002")
    killed, running = (out / "train" / f".Track00002.{name}.tmp" for name in ("a", "b"))
    for unfinished in (killed, running):
        (unfinished / "stems").mkdir(parents=True)
    os.utime(killed, (0, 0))
    write_corpus(out, 5, SECONDS, SEED, progress=False)
    assert marker.exists()
    assert running.exists() and not killed.exists()
    assert digests(out / "train" / "Track00002") == digests(corpus / "train" / "Track00002")


def test_two_runs_at_once_write_every_song_whole(corpus, tmp_path, monkeypatch):
    out, begun = tmp_path / "both", []

    def compose(*arguments):
        if not begun:  # the first run's first song: a second run starts, and ends before it
            begun.append(True)
            write_corpus(out, 5, SECONDS, SEED, progress=False)
        return compose_song(*arguments)

    monkeypatch.setattr("minislakh.corpus.compose_song", compose)
    write_corpus(out, 5, SECONDS, SEED, progress=False)
    assert digests(out) == digests(corpus)


def _worker(writer):
    _watch_parent()
    writer.send("ready")
    time.sleep(60)


def _run_with_worker(context, writer):
    context.Process(target=_worker, args=(writer,)).start()
    writer.close()
    time.sleep(60)


def test_workers_of_a_killed_run_end_by_themselves():
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    run = context.Process(target=_run_with_worker, args=(context, writer))
    run.start()
    writer.close()
    assert reader.recv() == "ready"
    run.kill()
    assert reader.poll(30)
    with pytest.raises(EOFError):  # nobody is left to write
        reader.recv()


def test_a_full_disk_names_the_file_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(path, content):
        if path.suffix == ".flac":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"\d+ bytes") as error:
        write_corpus(tmp_path, 1, SECONDS, SEED, progress=False)
    assert error.value.errno == errno.ENOSPC and error.value.filename.endswith("S00.flac")
    assert list((tmp_path / "train").iterdir()) == []


@pytest.mark.parametrize(
    ("songs", "seconds", "seed"), [(6, SECONDS, SEED), (5, 5.0, SEED), (5, SECONDS, 0)]
)
def test_other_settings_in_the_same_folder_are_refused(corpus, songs, seconds, seed):
    with pytest.raises(ValueError, match="has a MiniSlakh of") as error:
        write_corpus(corpus, songs, seconds, seed, progress=False)
    text = str(error.value)
    assert str(corpus) in text
    assert f"'songs': 5, 'seconds': {SECONDS}, 'seed': {SEED}" in text
    assert f"'songs': {songs}, 'seconds': {seconds}, 'seed': {seed}" in text


def test_another_version_in_the_same_folder_is_refused(corpus, tmp_path):
    settings = json.loads((corpus / "minislakh.json").read_text())
    assert settings == {"songs": 5, "seconds": SECONDS, "seed": SEED, "version": 1}
    (tmp_path / "minislakh.json").write_text(json.dumps({**settings, "version": 0}))
    with pytest.raises(ValueError, match="'version': 0"):
        write_corpus(tmp_path, 5, SECONDS, SEED, progress=False)


def test_settings_that_are_not_json_are_named(tmp_path):
    (tmp_path / "minislakh.json").write_text("{")
    with pytest.raises(ValueError, match=r"minislakh\.json: not JSON"):
        write_corpus(tmp_path, 5, SECONDS, SEED, progress=False)


@pytest.mark.parametrize(
    ("songs", "seconds", "seed", "workers", "message"),
    [
        (0, 5.0, 0, 1, "songs = 0: expected 1 or more"),
        (3, 3.9, 0, 1, "seconds = 3.9: expected 4.0 or more"),
        (3, float("nan"), 0, 1, "seconds = nan: expected 4.0 or more"),
        (3, float("inf"), 0, 1, "seconds = inf: expected 4.0 or more"),
        (3, 5.0, -1, 1, "seed = -1: expected 0 or more"),
        (3, 5.0, 0, 0, "workers = 0: expected 1 or more"),
    ],
)
def test_bad_numbers_are_refused(tmp_path, songs, seconds, seed, workers, message):
    with pytest.raises(ValueError, match=message):
        write_corpus(tmp_path / "out", songs, seconds, seed, workers=workers, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "out"
    path.touch()
    with pytest.raises(ValueError, match="a file, expected a folder or nothing") as error:
        write_corpus(path, 3, 5.0, 0, progress=False)
    assert str(path) in str(error.value)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match=r"expected an empty folder .* found \['photos'\]"):
        write_corpus(tmp_path, 3, 5.0, 0, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("package", ["tinysoundfont", "pretty_midi", "mido"])
def test_a_missing_package_is_named_with_the_pip_commands(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as error:
        write_corpus(tmp_path / "out", 3, 5.0, 0, progress=False)
    text = str(error.value)
    assert f"needs {package}:" in text
    assert "pip install 'mge-plugin[minislakh]'" in text
    assert "pip install --no-deps tinysoundfont" in text
    assert not (tmp_path / "out").exists()
