// The page's words, in the browser's language: English, or Japanese.

const WORDS = {
  en: {
    title: "Sing, hear the band", session: "Session", newSession: "New recording", zip: "Download all (zip)",
    deaf: "No adapter is loaded, so the band does not listen to your voice: it plays from the tags alone, and your voice is laid over it. Start the studio with --adapter FOLDER for a band that follows you.",
    tiny: "The tiny model is for trying, not for music.",
    voice: "Your voice", record: "Record", stop: "Stop", counting: "Counting in …", level: "Level of the microphone",
    countIn: "Count in", countInTempo: "Beats a minute", choose: "Choose a file",
    drop: "or drop a recording of a voice here: WAV, FLAC, MP3, Ogg, AIFF, M4A or WebM, at most {seconds} s",
    part: "A part of it (drag over the wave):", from: "From", to: "To", clearPart: "Whole", cut: "Keep only this part",
    again: "Again, only here", againOf: "{from} to {to} made anew of {take}", hearTake: "Listen to the take first of which this part is to be made anew.",
    tempo: "Tempo", key: "Key", range: "Range", length: "Length", loudness: "Loudness", half: "½", double: "×2",
    halfLabel: "Half the tempo", doubleLabel: "Double the tempo", inTags: "tell the band",
    sure: "clear", likely: "likely", guess: "a guess", none: "not found", seconds: "{seconds} s",
    sheet: "Lead sheet", bars: "Bars", bar: "Bar {number}, {at}: {chords}", barGuess: "Bar {number}, {at}: {chords}, a guess", barChords: "Chords of bar {number}",
    bpm: "{tempo} bpm", noSheet: "no beats were found in the voice; give a tempo, or write a lead sheet",
    sheetFollowed: "the band follows this; click a bar to change its chords",
    sheetUnused: "the adapter takes no lead sheet, so that the band does not follow this",
    downbeat: "First downbeat (s)", sheetText: "As text", sheetSave: "Take this text",
    band: "The band", tags: "Tags", words: "More words for the band (tags, parted by commas)",
    takes: "Takes", seed: "Seed", steps: "Steps", strength: "How much it follows you", weight: "Weight of the adapter",
    ignores: "{value}: ignores you", generate: "Make the band", estimate: "about {seconds} s",
    noEstimate: "how long it takes here is known after the first take",
    queue: "Orders", waiting: "waiting, {position} before it", running: "take {take} of {of}: step {step} of {steps}",
    opening: "take {take} of {of}: opening the networks and reading the voice", measuring: "measuring",
    finished: "{count} takes are ready", cancelled: "stopped; {count} takes are kept", failed: "failed: {error}", cancel: "Stop",
    listen: "Listen", play: "Play", pause: "Pause", position: "Position", sources: "What plays",
    voiceLevel: "Level of the voice", mute: "Mute the voice", solo: "Voice alone", loop: "Loop the part", blind: "Blind",
    onlyVoice: "Voice", take: "Take {name}", takeSettings: "seed {seed}, {steps} steps", strengthIs: "strength {strength}",
    stars: "Stars for {name}", star: "{count} of 5", useSettings: "Use these settings", download: "Band (wav)",
    downloadMix: "With the voice (wav)", record_json: "Record (json)", listenTo: "Listen to {name}",
    inKey: "in your key", nearKey: "mostly in your key", noKey: "no nearer to your key than chance", offKey: "off your key",
    rank: "{word} (place {rank} of 12 keys; chance is 6.5)", otherRank: "beside another voice: place {rank}",
    noLeak: "your voice does not leak in", someLeak: "your voice leaks in: a little", muchLeak: "your voice leaks in: a lot",
    leak: "{word} ({leak}; none is 0)", otherLeak: "another voice: {leak}", bandKey: "the band plays in {key}",
    holdsVoice: "the voice is in it, as this adapter was trained", measuresLater: "measures follow",
    keys: "Keyboard", keyPlay: "play or pause", keySeek: "5 seconds back or on", keyTake: "hear that take", keyVoice: "hear the voice alone",
    keyBlind: "blind", keyLoop: "loop the part", keyRecord: "record, or stop",
    noMicrophone: "The microphone could not be opened ({reason}). Allow it for this page, or drop a file.",
    nothingTaken: "Nothing was recorded.", sending: "Reading the recording …", tooLarge: "{name} is too large; at most {megabytes} MB.",
    choosePart: "Choose a part first: drag over the wave, or type from and to.",
    lost: "This browser could not decode {name}.",
  },
  ja: {
    title: "歌えば、バンドが聴こえる", session: "セッション", newSession: "新しい録音", zip: "すべて保存（zip）",
    deaf: "アダプターが読み込まれていません。バンドは声を聴かず、タグだけで演奏し、その上に声を重ねます。声に合わせるバンドには、--adapter フォルダー を付けてスタジオを起動してください。",
    tiny: "tiny モデルは試すためのもので、音楽用ではありません。",
    voice: "声", record: "録音", stop: "停止", counting: "カウント中…", level: "マイクの音量",
    countIn: "カウントイン", countInTempo: "BPM", choose: "ファイルを選ぶ",
    drop: "または、声の録音をここにドロップ：WAV、FLAC、MP3、Ogg、AIFF、M4A、WebM、{seconds} 秒まで",
    part: "一部分（波形の上をドラッグ）：", from: "開始", to: "終了", clearPart: "全体", cut: "この部分だけ残す",
    again: "ここだけもう一度", againOf: "{take} の {from}〜{to} を作り直し", hearTake: "先に、この部分を作り直したいテイクを選んでください。",
    tempo: "テンポ", key: "キー", range: "音域", length: "長さ", loudness: "音量", half: "½", double: "×2",
    halfLabel: "テンポを半分に", doubleLabel: "テンポを倍に", inTags: "バンドに伝える",
    sure: "明確", likely: "おそらく", guess: "推測", none: "見つからず", seconds: "{seconds} 秒",
    sheet: "リードシート", bars: "小節", bar: "{number} 小節目、{at}：{chords}", barGuess: "{number} 小節目、{at}：{chords}、推測", barChords: "{number} 小節目のコード",
    bpm: "{tempo} bpm", noSheet: "声から拍が見つかりません。テンポを入れるか、リードシートを書いてください",
    sheetFollowed: "バンドはこれに従います。小節をクリックするとコードを変えられます",
    sheetUnused: "このアダプターはリードシートを使わないため、バンドはこれに従いません",
    downbeat: "最初の小節線（秒）", sheetText: "テキストで", sheetSave: "このテキストにする",
    band: "バンド", tags: "タグ", words: "バンドへのことば（タグ、コンマ区切り）",
    takes: "テイク数", seed: "シード", steps: "ステップ", strength: "声への従い方", weight: "アダプターの重み",
    ignores: "{value}：声を無視", generate: "バンドを作る", estimate: "約 {seconds} 秒",
    noEstimate: "所要時間は最初のテイクの後にわかります",
    queue: "注文", waiting: "待機中、前に {position} 件", running: "テイク {take} / {of}：ステップ {step} / {steps}",
    opening: "テイク {take} / {of}：ネットワークと声を読み込み中", measuring: "測定中",
    finished: "{count} テイク完成", cancelled: "停止しました。{count} テイクは残っています", failed: "失敗：{error}", cancel: "停止",
    listen: "聴く", play: "再生", pause: "一時停止", position: "位置", sources: "再生するもの",
    voiceLevel: "声の音量", mute: "声を消す", solo: "声だけ", loop: "部分をループ", blind: "ブラインド",
    onlyVoice: "声", take: "テイク {name}", takeSettings: "シード {seed}、{steps} ステップ", strengthIs: "強さ {strength}",
    stars: "{name} の星", star: "5 つ中 {count}", useSettings: "この設定を使う", download: "バンド（wav）",
    downloadMix: "声入り（wav）", record_json: "記録（json）", listenTo: "{name} を聴く",
    inKey: "あなたのキーです", nearKey: "ほぼあなたのキーです", noKey: "キーの一致は偶然と同じ程度", offKey: "あなたのキーから外れています",
    rank: "{word}（12 のキー中 {rank} 位、偶然は 6.5）", otherRank: "別の声とでは {rank} 位",
    noLeak: "声の漏れ込みなし", someLeak: "声の漏れ込み：少し", muchLeak: "声の漏れ込み：多い",
    leak: "{word}（{leak}、なしは 0）", otherLeak: "別の声：{leak}", bandKey: "バンドのキーは {key}",
    holdsVoice: "このアダプターの学習どおり、声が入っています", measuresLater: "測定はこの後",
    keys: "キーボード", keyPlay: "再生・一時停止", keySeek: "5 秒戻る・進む", keyTake: "そのテイクを聴く", keyVoice: "声だけを聴く",
    keyBlind: "ブラインド", keyLoop: "部分をループ", keyRecord: "録音・停止",
    noMicrophone: "マイクを開けません（{reason}）。このページに許可するか、ファイルをドロップしてください。",
    nothingTaken: "何も録音されませんでした。", sending: "録音を読み込み中…", tooLarge: "{name} は大きすぎます。{megabytes} MB までです。",
    choosePart: "先に部分を選んでください：波形の上をドラッグするか、開始と終了を入力します。",
    lost: "このブラウザーは {name} を再生できません。",
  },
};

export const language = navigator.language.toLowerCase().startsWith("ja") ? "ja" : "en";

export function word(name, values = {}) {
  return WORDS[language][name].replace(/\{(\w+)\}/g, (_, value) => values[value]);
}

// Fills what the page says by itself.
export function fillWords(values = {}) {
  document.documentElement.lang = language;
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = word(place.dataset.word, values);
  for (const place of document.querySelectorAll("[data-label]")) place.setAttribute("aria-label", word(place.dataset.label));
}
